//! From a URL to server, bucket and prefix; it knows no settings and touches no network.

use percent_encoding::percent_decode_str;
use plakar_plugin_api::{Error, ErrorKind, Result};
use url::{Host, Url};

/// Where the objects are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Location {
    pub(crate) server: Server,
    pub(crate) bucket: String,
    /// Empty, or ends with `/`.
    pub(crate) prefix: String,
}

/// Who is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Server {
    /// Amazon, where the host name follows from the region.
    Aws {
        /// `amazonaws.com`, or that of a partition of its own.
        domain: &'static str,
        /// What stands before the region, as it was asked for: `s3`, `s3-fips`, each with `.dualstack` or not.
        service: String,
        /// As the host name says it.
        region: Option<String>,
    },
    /// Anyone else: `HOST` or `HOST:PORT`.
    Other(String),
}

/// Each with the region where nothing names another.
const AWS_DOMAINS: [(&str, &str); 3] = [
    ("amazonaws.com", "us-east-1"),
    ("amazonaws.com.cn", "cn-north-1"),
    ("amazonaws.eu", "eusc-de-east-1"),
];

impl Location {
    /// Takes `s3://HOST[:PORT]/BUCKET[/PREFIX]` apart. At Amazon the bucket may be part of the host name.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        // The parser would resolve these, and so name another place than the one that was written.
        let dots = |part: &str| {
            matches!(
                percent_decode_str(part).collect::<Vec<u8>>().as_slice(),
                b"." | b".."
            )
        };
        if text.split('/').any(dots) {
            return Err(wrong("it has a `.` or `..` in its path"));
        }
        let url = Url::parse(text).map_err(|error| wrong(&error.to_string()))?;
        if url.scheme() != "s3" {
            return Err(wrong("it does not begin with s3://"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(wrong(
                "credentials do not belong into a URL: use the settings access_key_id and secret_access_key, \
                 or S3_REPOSITORY_USER and S3_REPOSITORY_PASSWORD",
            ));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(wrong(
                "it has a `?` or `#`; options are settings, not part of the URL",
            ));
        }
        let host = url.host_str().filter(|host| !host.is_empty());
        let host = host.ok_or_else(|| wrong("the host is missing"))?;
        let path = percent_decode_str(url.path())
            .decode_utf8()
            .map_err(|error| wrong(&format!("its path is not UTF-8: {error}")))?;
        let (server, bucket) = match aws(host) {
            Some((server, bucket)) => (server, bucket),
            None => (Server::Other(with_port(host, url.port())), None),
        };
        let path = path.trim_matches('/');
        let (bucket, prefix) = match bucket {
            Some(bucket) => (bucket, path),
            None => path
                .split_once('/')
                .map_or((path.to_owned(), ""), |(bucket, prefix)| {
                    (bucket.to_owned(), prefix)
                }),
        };
        check_bucket(&bucket)?;
        Ok(Self {
            server,
            bucket,
            prefix: checked_prefix(prefix)?,
        })
    }

    /// The object of a key.
    pub(crate) fn object(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// The URL of a key, or (empty) of the whole place, for messages.
    pub(crate) fn display(&self, key: &str) -> String {
        let host = self.server.host(None);
        let path = format!("s3://{host}/{}/{}{key}", self.bucket, self.prefix);
        path.trim_end_matches('/').to_owned()
    }
}

impl Server {
    /// Host and port to talk to, for a bucket in `region`.
    pub(crate) fn host(&self, region: Option<&str>) -> String {
        match self {
            Self::Other(host) => host.clone(),
            Self::Aws {
                domain,
                service,
                region: named,
            } => match region.or(named.as_deref()) {
                Some(region) => format!("{service}.{region}.{domain}"),
                None => format!("{service}.{domain}"),
            },
        }
    }

    /// Whether it is reached without a network.
    pub(crate) fn is_this_machine(&self) -> bool {
        match self.named() {
            Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            None => false,
        }
    }

    /// Whether it goes by a name, not by an address.
    pub(crate) fn has_name(&self) -> bool {
        matches!(self.named(), Some(Host::Domain(_)))
    }

    /// Who is asked, as requests understand it.
    fn named(&self) -> Option<Host> {
        let url = Url::parse(&format!("http://{}", self.host(None))).ok()?;
        url.host().map(|host| host.to_owned())
    }

    pub(crate) fn is_aws(&self) -> bool {
        matches!(self, Self::Aws { .. })
    }

    /// The region to begin with, where nothing names one.
    pub(crate) fn usual_region(&self) -> &'static str {
        let own = match self {
            Self::Aws { domain, .. } => AWS_DOMAINS.iter().find(|(one, _)| one == domain),
            Self::Other(_) => None,
        };
        own.or(AWS_DOMAINS.first())
            .map_or("us-east-1", |(_, region)| region)
    }

    /// The region that the host name tells.
    pub(crate) fn region(&self) -> Option<&str> {
        match self {
            Self::Aws { region, .. } => region.as_deref(),
            Self::Other(_) => None,
        }
    }
}

/// Understands `s3.amazonaws.com`, `s3.REGION…`, `s3-REGION…`, `s3.dualstack.REGION…`, `s3-fips.REGION…`, each with `BUCKET.`
/// before it or not. Other hosts of Amazon (private links, access points, acceleration) are taken as they are written, like anyone's.
fn aws(host: &str) -> Option<(Server, Option<String>)> {
    let host = host.to_ascii_lowercase();
    let (domain, rest) = AWS_DOMAINS.iter().find_map(|(domain, _)| {
        let rest = host.strip_suffix(domain)?.strip_suffix('.')?;
        Some((*domain, rest))
    })?;
    let labels: Vec<&str> = rest.split('.').collect();
    let at = labels
        .iter()
        .rposition(|label| *label == "s3" || label.starts_with("s3-"))?;
    let (bucket, service) = labels.split_at(at);
    let (service, region) = match service {
        ["s3"] => ("s3", None),
        ["s3", "dualstack", region] => ("s3.dualstack", Some(*region)),
        ["s3-fips", "dualstack", region] => ("s3-fips.dualstack", Some(*region)),
        ["s3-fips", region] => ("s3-fips", Some(*region)),
        ["s3", region] => ("s3", Some(*region)),
        // As it was written before: `s3-eu-west-1`.
        [legacy] => (
            "s3",
            Some(legacy.strip_prefix("s3-").filter(|name| is_region(name))?),
        ),
        _ => return None,
    };
    let server = Server::Aws {
        domain,
        service: service.to_owned(),
        region: region.map(str::to_owned),
    };
    Some((server, (!bucket.is_empty()).then(|| bucket.join("."))))
}

/// Whether it looks like `eu-west-1`, not like `accelerate` or `external-1`.
fn is_region(name: &str) -> bool {
    let parts: Vec<&str> = name.split('-').collect();
    let is_number = |part: &&str| part.bytes().all(|byte| byte.is_ascii_digit());
    parts.len() >= 3 && parts.last().is_some_and(is_number)
}

fn with_port(host: &str, port: Option<u16>) -> String {
    port.map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

fn check_bucket(bucket: &str) -> Result<()> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    if bucket.is_empty() {
        Err(wrong("the bucket is missing: write s3://HOST/BUCKET"))
    } else if bucket.len() > 255 || !bucket.bytes().all(plain) || bucket.starts_with('.') {
        Err(wrong(&format!("{bucket:?} cannot be the name of a bucket")))
    } else {
        Ok(())
    }
}

fn checked_prefix(prefix: &str) -> Result<String> {
    if prefix.is_empty() {
        return Ok(String::new());
    }
    // Dots that came out of an escape are as wrong as those that were written.
    let unfit = |part: &str| matches!(part, "" | "." | "..");
    if prefix.split('/').any(unfit) || prefix.chars().any(char::is_control) || prefix.len() > 400 {
        return Err(wrong(
            "the path after the bucket has an empty part, `.` or `..`, a control character, or more than 400 bytes",
        ));
    }
    Ok(format!("{prefix}/"))
}

/// The location is not repeated: it may hold what must not be shown.
fn wrong(why: &str) -> Error {
    Error::new(
        ErrorKind::Config,
        format!("wrong location for s3://HOST[:PORT]/BUCKET[/PREFIX]: {why}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Location {
        Location::parse(text).unwrap()
    }

    #[test]
    fn server_bucket_and_prefix_are_told_apart() {
        let place = parse("s3://minio.example:9001/backups");
        assert_eq!(place.server, Server::Other("minio.example:9001".into()));
        assert_eq!((place.bucket.as_str(), place.prefix.as_str()), ("backups", ""));
        assert_eq!(
            place.display("packs/x"),
            "s3://minio.example:9001/backups/packs/x"
        );
        assert_eq!(place.display(""), "s3://minio.example:9001/backups");
        for text in ["s3://[::1]:3900/b/home/me", "s3://[::1]:3900/b/home/me/"] {
            let place = parse(text);
            assert_eq!(place.server, Server::Other("[::1]:3900".into()));
            assert_eq!(place.object("config"), "home/me/config");
        }
        assert_eq!(parse("s3://h/b/my%20things").prefix, "my things/");
    }

    #[test]
    fn hosts_of_amazon_tell_region_and_bucket() {
        let cases = [
            ("s3://s3.amazonaws.com/b/p", "s3.amazonaws.com", None, "b"),
            (
                "s3://s3.eu-west-3.amazonaws.com/b/p",
                "s3.eu-west-3.amazonaws.com",
                Some("eu-west-3"),
                "b",
            ),
            (
                "s3://s3-eu-west-3.amazonaws.com/b/p",
                "s3.eu-west-3.amazonaws.com",
                Some("eu-west-3"),
                "b",
            ),
            ("s3://my.b.s3.amazonaws.com/p", "s3.amazonaws.com", None, "my.b"),
            (
                "s3://b.s3.dualstack.eu-west-1.amazonaws.com/p",
                "s3.dualstack.eu-west-1.amazonaws.com",
                Some("eu-west-1"),
                "b",
            ),
            (
                "s3://b.s3.cn-north-1.amazonaws.com.cn/p",
                "s3.cn-north-1.amazonaws.com.cn",
                Some("cn-north-1"),
                "b",
            ),
            (
                "s3://s3-fips.dualstack.us-gov-west-1.amazonaws.com/b/p",
                "s3-fips.dualstack.us-gov-west-1.amazonaws.com",
                Some("us-gov-west-1"),
                "b",
            ),
            (
                "s3://b.s3-fips.us-east-1.amazonaws.com/p",
                "s3-fips.us-east-1.amazonaws.com",
                Some("us-east-1"),
                "b",
            ),
            ("s3://s3.amazonaws.com.cn/b/p", "s3.amazonaws.com.cn", None, "b"),
        ];
        for (text, host, region, bucket) in cases {
            let place = parse(text);
            assert!(place.server.is_aws(), "{text}");
            assert_eq!(place.server.host(None), host, "{text}");
            assert_eq!(place.server.region(), region, "{text}");
            assert_eq!(
                (place.bucket.as_str(), place.prefix.as_str()),
                (bucket, "p/"),
                "{text}"
            );
        }
        assert_eq!(
            parse("s3://s3.amazonaws.com/b").server.host(Some("eu-west-3")),
            "s3.eu-west-3.amazonaws.com"
        );
        assert!(!parse("s3://s3.example.com/b").server.is_aws());
        assert!(!parse("s3://evilamazonaws.com/b").server.is_aws());
    }

    #[test]
    fn hosts_of_amazon_that_are_something_else_are_taken_as_they_are_written() {
        for host in [
            "s3-accelerate.amazonaws.com",
            "s3-external-1.amazonaws.com",
            "bucket.vpce-1a2b3c4d-5e6f.s3.us-east-1.vpce.amazonaws.com",
            "point-123456789012.s3-accesspoint.us-west-2.amazonaws.com",
            "s3express-usw2-az1.us-west-2.amazonaws.com",
        ] {
            let place = parse(&format!("s3://{host}/b/p"));
            assert_eq!(place.server, Server::Other(host.to_owned()));
            assert_eq!(
                (place.bucket.as_str(), place.prefix.as_str()),
                ("b", "p/"),
                "{host}"
            );
        }
    }

    #[test]
    fn this_machine_is_known_by_its_names() {
        for (text, is_this_machine) in [
            ("s3://localhost:9000/b", true),
            ("s3://b.s3.LOCALHOST/b", true),
            ("s3://127.0.0.1:3900/b", true),
            ("s3://127.9.9.9/b", true),
            ("s3://[::1]:3900/b", true),
            ("s3://10.0.0.1/b", false),
            ("s3://[fe80::1]/b", false),
            ("s3://notlocalhost/b", false),
            ("s3://s3.amazonaws.com/b", false),
        ] {
            assert_eq!(parse(text).server.is_this_machine(), is_this_machine, "{text}");
        }
    }

    #[test]
    fn each_part_of_amazon_has_a_region_to_begin_with() {
        let usual = |text| parse(text).server.usual_region();
        assert_eq!(usual("s3://s3.amazonaws.com/b"), "us-east-1");
        assert_eq!(usual("s3://s3.amazonaws.com.cn/b"), "cn-north-1");
        assert_eq!(usual("s3://s3.amazonaws.eu/b"), "eusc-de-east-1");
        assert_eq!(usual("s3://minio.example/b"), "us-east-1");
    }

    #[test]
    fn what_is_no_location_is_refused() {
        for text in [
            "s3://",
            "s3:///bucket",
            "s3://host",
            "s3://host/",
            "s3://host/b?x=1",
            "s3://host/b#x",
            "s3://host/b b/p",
            "s3://host/b//p",
            "s3://host/b/%2e%2e/p",
            "s3://host/b/%2e%2e%2fp",
            "s3://host/b/p%2f%2e",
            "s3://host/b/./p",
            "s3://host/b/p/..",
            "s3://host/b/p%0a",
            "https://host/b",
            "/bucket",
            "s3://host/b/%ff",
        ] {
            let error = Location::parse(text).map(|place| place.display("")).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Config, "{text}");
        }
    }

    #[test]
    fn credentials_in_a_url_are_refused_and_not_repeated() {
        for text in ["s3://AKIA:swordfish@host/b", "s3://swordfish@host/b"] {
            let error = Location::parse(text).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Config);
            assert!(
                error.message.contains("secret_access_key") && !error.message.contains("swordfish"),
                "{}",
                error.message
            );
        }
    }
}
