//! What the user wants, from location, settings and environment; touches no network.

use std::path::{Path, PathBuf};
use std::time::Duration;

use plakar_plugin_api::{Error, ErrorKind, Result, Settings};
use reqwest::Certificate;

use crate::credentials::{Credentials, Environment};
use crate::location::Location;

/// Every setting there is.
const KNOWN: [&str; 18] = [
    "access_key_id",
    "secret_access_key",
    "session_token",
    "anonymous",
    "region",
    "tls",
    "tls_ca_file",
    "virtual_hosted",
    "create_bucket",
    "storage_class",
    "checksum",
    "object_lock_mode",
    "object_lock_days",
    "connect_timeout_seconds",
    "request_timeout_seconds",
    "multipart_threshold_mib",
    "multipart_part_mib",
    "concurrency",
];

const MIB: u64 = 1 << 20;

/// All that a client is made from.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) location: Location,
    pub(crate) credentials: Credentials,
    /// Given, or told by the host name. Without one the server is asked.
    pub(crate) region: Option<String>,
    pub(crate) tls: bool,
    /// Added to the roots that the system trusts.
    pub(crate) certificates: Vec<Certificate>,
    pub(crate) virtual_hosted: bool,
    pub(crate) create_bucket: bool,
    pub(crate) connect_timeout: Duration,
    /// How long a request may show no movement.
    pub(crate) idle_timeout: Duration,
    /// Usual number of calls at the same time.
    pub(crate) concurrency: u32,
    pub(crate) storing: Storing,
}

/// How objects are put.
#[derive(Debug)]
pub(crate) struct Storing {
    pub(crate) storage_class: Option<String>,
    /// Whether the server is told the SHA-256 of every body, so that it refuses what arrives damaged.
    pub(crate) hashed: bool,
    pub(crate) lock: Option<Lock>,
    /// Objects larger than this go in parts.
    pub(crate) multipart_threshold_bytes: u64,
    pub(crate) part_bytes: u64,
}

/// Objects cannot be deleted for so long.
#[derive(Debug)]
pub(crate) struct Lock {
    /// `GOVERNANCE` or `COMPLIANCE`.
    pub(crate) mode: String,
    pub(crate) days: u32,
}

impl Config {
    pub(crate) fn new(location: &str, settings: &Settings, environment: Environment<'_>) -> Result<Self> {
        settings.only(&KNOWN)?;
        let location = Location::parse(location)?;
        let at_amazon = location.server.is_aws();
        let credentials = Credentials::find(settings, environment, at_amazon)?;
        let region = settings.get("region").map(str::to_owned);
        let region = region
            .or_else(|| location.server.region().map(str::to_owned))
            .or_else(|| environment("AWS_REGION"))
            .or_else(|| environment("AWS_DEFAULT_REGION"));
        if let Some(region) = region.as_ref().filter(|region| !is_name(region)) {
            return Err(wrong(
                "region",
                &format!("{region:?} cannot be the name of a region"),
            ));
        }
        let tls = flag(settings, "tls", true)?;
        // A certificate for *.s3.amazonaws.com does not hold for a bucket with a dot in its name.
        let by_host = at_amazon && !(tls && location.bucket.contains('.'));
        let virtual_hosted = flag(settings, "virtual_hosted", by_host)?;
        if virtual_hosted && !location.server.has_name() {
            return Err(wrong(
                "virtual_hosted",
                "the server is named by its address, and no bucket can stand before that",
            ));
        }
        let home = environment("HOME");
        Ok(Self {
            virtual_hosted,
            credentials,
            region,
            tls,
            certificates: settings.get("tls_ca_file").map_or_else(
                || Ok(Vec::new()),
                |path| certificates(&expanded(path, home.as_deref())),
            )?,
            create_bucket: flag(settings, "create_bucket", true)?,
            connect_timeout: seconds(settings, "connect_timeout_seconds", 10)?,
            idle_timeout: seconds(settings, "request_timeout_seconds", 60)?,
            concurrency: u32::try_from(number(settings, "concurrency", 8, 1, 16)?).unwrap_or(8),
            storing: Storing::new(settings)?,
            location,
        })
    }
}

impl Storing {
    fn new(settings: &Settings) -> Result<Self> {
        let storage_class = settings.get("storage_class").map(str::to_owned);
        if let Some(class) = storage_class.as_ref().filter(|class| !is_name(class)) {
            return Err(wrong(
                "storage_class",
                &format!("{class:?} cannot be the name of a storage class"),
            ));
        }
        if let Some(class @ ("GLACIER" | "DEEP_ARCHIVE")) = storage_class.as_deref() {
            return Err(wrong(
                "storage_class",
                &format!(
                    "what is stored as {class} cannot be read at once: GLACIER_IR is the coldest class that can"
                ),
            ));
        }
        let hashed = match settings.get("checksum") {
            None | Some("sha256") => true,
            Some("none") => false,
            Some(_) => return Err(wrong("checksum", "it is `sha256` or `none`")),
        };
        Ok(Self {
            storage_class,
            hashed,
            lock: lock(settings)?,
            multipart_threshold_bytes: number(settings, "multipart_threshold_mib", 64, 5, 5 << 10)? * MIB,
            part_bytes: number(settings, "multipart_part_mib", 16, 5, 5 << 10)? * MIB,
        })
    }
}

fn lock(settings: &Settings) -> Result<Option<Lock>> {
    let (mode, days) = (settings.get("object_lock_mode"), settings.get("object_lock_days"));
    match (mode, days) {
        (None, None) => Ok(None),
        (Some("GOVERNANCE" | "COMPLIANCE"), Some(_)) => Ok(Some(Lock {
            mode: mode.unwrap_or_default().to_owned(),
            days: u32::try_from(number(settings, "object_lock_days", 1, 1, 36_500)?).unwrap_or(1),
        })),
        (Some(_), Some(_)) => Err(wrong("object_lock_mode", "it is GOVERNANCE or COMPLIANCE")),
        _ => Err(wrong(
            "object_lock_mode",
            "it goes with `object_lock_days`: give both or neither",
        )),
    }
}

/// A path of the user, whose home is `~`.
fn expanded(path: &str, home: Option<&str>) -> PathBuf {
    match (path.strip_prefix("~/"), home) {
        (Some(rest), Some(home)) => Path::new(home).join(rest),
        _ => PathBuf::from(path),
    }
}

fn certificates(path: &Path) -> Result<Vec<Certificate>> {
    let refused = |why: &dyn std::fmt::Display| wrong("tls_ca_file", &format!("{}: {why}", path.display()));
    let pem = std::fs::read(path).map_err(|error| refused(&error))?;
    let found = Certificate::from_pem_bundle(&pem).map_err(|error| refused(&error))?;
    if found.is_empty() {
        return Err(refused(&"there is no certificate in it (PEM is expected)"));
    }
    Ok(found)
}

/// Whether it can be the name of a region or a storage class.
pub(crate) fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    (1..=64).contains(&text.len()) && text.bytes().all(plain)
}

fn flag(settings: &Settings, name: &str, default: bool) -> Result<bool> {
    Ok(settings.parse(name)?.unwrap_or(default))
}

fn number(settings: &Settings, name: &str, default: u64, least: u64, most: u64) -> Result<u64> {
    let value = settings.parse(name)?.unwrap_or(default);
    if (least..=most).contains(&value) {
        Ok(value)
    } else {
        Err(wrong(name, &format!("{value} is not within {least} and {most}")))
    }
}

fn seconds(settings: &Settings, name: &str, default: u64) -> Result<Duration> {
    number(settings, name, default, 1, 86_400).map(Duration::from_secs)
}

fn wrong(setting: &str, why: &str) -> Error {
    Error::new(
        ErrorKind::Config,
        format!("the setting `{setting}` is wrong: {why}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(location: &str, settings: &[(&str, &str)], environment: &[(&str, &str)]) -> Result<Config> {
        let keys = [("access_key_id", "id"), ("secret_access_key", "swordfish")];
        let settings: Settings = keys.iter().chain(settings).copied().collect();
        let look_up = |name: &str| {
            let found = environment.iter().find(|(one, _)| *one == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Config::new(location, &settings, &look_up)
    }

    #[test]
    fn nothing_but_the_location_need_be_said() {
        let config = config("s3://host:9000/b/p", &[], &[]).unwrap();
        assert!(config.tls && !config.virtual_hosted && config.create_bucket && config.storing.hashed);
        assert_eq!((config.region, config.concurrency), (None, 8));
        assert_eq!(config.storing.multipart_threshold_bytes, 64 << 20);
        assert!(config.storing.lock.is_none());
    }

    #[test]
    fn the_region_comes_from_settings_then_host_then_environment() {
        let variable = [("AWS_REGION", "three")];
        let region = |location, settings: &[_]| config(location, settings, &variable).unwrap().region;
        let aws = "s3://s3.eu-west-3.amazonaws.com/b";
        assert_eq!(region(aws, &[("region", "one")]).unwrap(), "one");
        assert_eq!(region(aws, &[]).unwrap(), "eu-west-3");
        assert_eq!(region("s3://h/b", &[]).unwrap(), "three");
    }

    #[test]
    fn buckets_are_in_the_host_name_at_amazon_only() {
        let by_host = |location, settings: &[_]| config(location, settings, &[]).unwrap().virtual_hosted;
        assert!(by_host("s3://s3.amazonaws.com/bucket", &[]));
        assert!(!by_host("s3://s3.amazonaws.com/with.dot", &[]));
        assert!(!by_host(
            "s3://s3.amazonaws.com/bucket",
            &[("virtual_hosted", "false")]
        ));
        assert!(!by_host("s3://minio.example/bucket", &[]));
        assert!(by_host(
            "s3://minio.example/bucket",
            &[("virtual_hosted", "true")]
        ));
    }

    #[test]
    fn wrong_settings_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let empty = folder.path().join("empty.pem");
        std::fs::write(&empty, "no certificate").unwrap();
        for (name, value) in [
            ("tls", "maybe"),
            ("acess_key_id", "x"),
            ("tls_insecure", "true"),
            ("checksum", "md5"),
            ("storage_class", "very cold"),
            ("storage_class", "GLACIER"),
            ("storage_class", "DEEP_ARCHIVE"),
            ("region", "eu west"),
            ("multipart_part_mib", "4"),
            ("multipart_threshold_mib", "x"),
            ("concurrency", "17"),
            ("connect_timeout_seconds", "0"),
            ("request_timeout_seconds", "-1"),
            ("object_lock_mode", "GOVERNANCE"),
            ("object_lock_days", "10"),
            ("tls_ca_file", "/nonexistent/ca.pem"),
            ("tls_ca_file", empty.to_str().unwrap()),
            ("tls_ca_file", "~/absent.pem"),
        ] {
            let error = config("s3://h/b", &[(name, value)], &[]).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Config, "{name}");
            assert!(
                error.message.contains(name) || error.message.contains("object_lock_mode"),
                "{}",
                error.message
            );
        }
        let home = ("HOME", folder.path().to_str().unwrap());
        let error = config("s3://h/b", &[("tls_ca_file", "~/absent.pem")], &[home]).unwrap_err();
        assert!(error.message.contains(home.1), "{}", error.message);
        for address in ["127.0.0.1:9000", "[::1]:9000", "127.1"] {
            let location = format!("s3://{address}/bucket");
            let error = config(&location, &[("virtual_hosted", "true")], &[]).unwrap_err();
            assert!(error.message.contains("virtual_hosted"), "{}", error.message);
        }
        let lock = [("object_lock_mode", "governance"), ("object_lock_days", "3")];
        assert!(
            config("s3://h/b", &lock, &[])
                .unwrap_err()
                .message
                .contains("GOVERNANCE")
        );
    }

    #[test]
    fn debug_output_shows_no_secret() {
        let shown = format!(
            "{:?}",
            config("s3://h/b", &[("session_token", "tuna")], &[]).unwrap()
        );
        assert!(!shown.contains("swordfish") && !shown.contains("tuna"), "{shown}");
    }
}
