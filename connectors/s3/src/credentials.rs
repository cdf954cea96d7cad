//! Who the requests are signed by: found in settings, environment or files, in a fixed order; it signs nothing.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AwsCredential, AwsCredentialProvider};
use object_store::{BackoffConfig, RetryConfig};
use plakar_plugin_api::{Error, ErrorKind, Result, Settings};
use zeroize::{Zeroize as _, Zeroizing};

use crate::client::install_cryptography;

/// Looks a variable up. A variable that is empty is not set.
pub(crate) type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// What signs the requests.
#[derive(Clone)]
pub(crate) enum Credentials {
    /// One pair for good.
    Fixed(Arc<Fixed>),
    /// Fetched, and renewed, where the machine runs: instance metadata, web identity.
    Fetched(AwsCredentialProvider),
    /// Nothing is signed.
    Anonymous,
}

/// A pair that is wiped when it is no longer used.
pub(crate) struct Fixed(pub(crate) AwsCredential);

impl Drop for Fixed {
    fn drop(&mut self) {
        self.0.secret_key.zeroize();
        self.0.token.zeroize();
    }
}

/// Names no secret, not even the key's name.
impl fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Fixed(_) => "Fixed",
            Self::Fetched(_) => "Fetched",
            Self::Anonymous => "Anonymous",
        })
    }
}

impl Credentials {
    /// The first that is given: settings, `S3_REPOSITORY_*`, `AWS_*`, the file of the AWS tools; at Amazon also what the machine is given.
    pub(crate) fn find(settings: &Settings, environment: Environment<'_>, at_amazon: bool) -> Result<Self> {
        if settings.parse::<bool>("anonymous")?.unwrap_or(false) {
            return Ok(Self::Anonymous);
        }
        let setting = |name: &str| settings.get(name).map(str::to_owned);
        let sources: [(Environment<'_>, [&str; 3]); 3] = [
            (&setting, ["access_key_id", "secret_access_key", "session_token"]),
            (environment, ["S3_REPOSITORY_USER", "S3_REPOSITORY_PASSWORD", ""]),
            (
                environment,
                ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"],
            ),
        ];
        if setting("session_token").is_some() && setting("access_key_id").is_none() {
            return Err(half("session_token", "access_key_id"));
        }
        for (look_up, [user, secret, token]) in sources {
            let token = if token.is_empty() { None } else { look_up(token) };
            if let Some(found) = pair(user, look_up(user), secret, look_up(secret), token)? {
                return Ok(found);
            }
        }
        if let Some(found) = from_file(environment)? {
            return Ok(found);
        }
        if at_amazon && may_fetch(environment) {
            Ok(Self::Fetched(fetched()?))
        } else {
            Err(missing(environment("AWS_PROFILE")))
        }
    }
}

/// Whether the machine may be asked for credentials. Where nothing names a place to ask at, only the metadata of the instance are left.
fn may_fetch(environment: Environment<'_>) -> bool {
    let places = [
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    ];
    let no_metadata = environment("AWS_EC2_METADATA_DISABLED");
    places.iter().any(|name| environment(name).is_some())
        || no_metadata.is_none_or(|value| !value.eq_ignore_ascii_case("true"))
}

fn half(given: &str, missing: &str) -> Error {
    Error::new(
        ErrorKind::Config,
        format!("`{given}` is given but `{missing}` is not: credentials take both"),
    )
}

/// Neither half is nothing, one half is a mistake.
fn pair(
    user_name: &str,
    user: Option<String>,
    secret_name: &str,
    secret: Option<String>,
    token: Option<String>,
) -> Result<Option<Credentials>> {
    match (user, secret) {
        (None, None) => Ok(None),
        (Some(_), None) => Err(half(user_name, secret_name)),
        (None, Some(_)) => Err(half(secret_name, user_name)),
        (Some(key_id), Some(secret_key)) => {
            let texts = [Some(&key_id), Some(&secret_key), token.as_ref()];
            let unfit = |text: &&String| text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic());
            if texts.iter().flatten().any(unfit) {
                return Err(Error::new(
                    ErrorKind::Config,
                    format!(
                        "`{user_name}` or `{secret_name}` is empty or has a space or a character that no key has"
                    ),
                ));
            }
            Ok(Some(Credentials::Fixed(Arc::new(Fixed(AwsCredential {
                key_id,
                secret_key,
                token,
            })))))
        }
    }
}

fn missing(profile: Option<String>) -> Error {
    let profile = profile.map_or_else(String::new, |name| {
        format!(", or have the profile `{name}` of AWS_PROFILE in the credentials file")
    });
    Error::new(
        ErrorKind::Auth,
        format!(
            "no credentials: set access_key_id and secret_access_key for this repository, or S3_REPOSITORY_USER and \
             S3_REPOSITORY_PASSWORD, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY{profile}"
        ),
    )
}

/// The pair of `AWS_PROFILE` in the credentials file of the AWS tools. A file that was named must be there.
fn from_file(environment: Environment<'_>) -> Result<Option<Credentials>> {
    let named = environment("AWS_SHARED_CREDENTIALS_FILE").map(PathBuf::from);
    let is_named = named.is_some();
    let path = named.or_else(|| Some(PathBuf::from(environment("HOME")?).join(".aws/credentials")));
    let Some(path) = path else { return Ok(None) };
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => Zeroizing::new(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !is_named => return Ok(None),
        Err(error) => {
            let text = format!("cannot read the credentials file {}: {error}", path.display());
            return Err(Error::new(ErrorKind::Config, text));
        }
    };
    let profile = environment("AWS_PROFILE");
    let value = |name: &str| profile_value(&text, profile.as_deref().unwrap_or("default"), name);
    pair(
        "aws_access_key_id",
        value("aws_access_key_id"),
        "aws_secret_access_key",
        value("aws_secret_access_key"),
        value("aws_session_token"),
    )
}

/// A value of a section: `[section]`, then `name = value` lines.
fn profile_value(text: &str, section: &str, name: &str) -> Option<String> {
    let is_header = |line: &str| line.starts_with('[');
    let mut lines = text.lines().map(str::trim);
    lines.find(|line| {
        line.strip_prefix('[')
            .and_then(|rest| rest.split(']').next())
            .is_some_and(|found| found.trim() == section)
    })?;
    lines
        .take_while(|line| !is_header(line))
        .filter_map(|line| line.split_once('='))
        .find(|(found, _)| found.trim() == name)
        .map(|(_, value)| value.trim().to_owned())
}

/// What the environment of the machine offers. Asks for nothing yet.
fn fetched() -> Result<AwsCredentialProvider> {
    install_cryptography();
    let impatient = RetryConfig {
        backoff: BackoffConfig::default(),
        max_retries: 1,
        retry_timeout: Duration::from_secs(5),
    };
    let store = AmazonS3Builder::from_env()
        .with_bucket_name("any")
        .with_retry(impatient)
        .build();
    let store = store
        .map_err(|error| Error::new(ErrorKind::Config, format!("cannot look for credentials: {error}")))?;
    Ok(Arc::clone(store.credentials()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(settings: &[(&str, &str)], environment: &[(&str, &str)]) -> Result<Credentials> {
        let settings: Settings = settings.iter().copied().collect();
        let look_up = |name: &str| {
            let found = environment.iter().find(|(one, _)| *one == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Credentials::find(&settings, &look_up, false)
    }

    #[track_caller]
    fn key_id(found: Result<Credentials>) -> (String, Option<String>) {
        match found.unwrap() {
            Credentials::Fixed(fixed) => (fixed.0.key_id.clone(), fixed.0.token.clone()),
            other => panic!("{other:?}"),
        }
    }

    const SETTINGS: [(&str, &str); 2] = [("access_key_id", "one"), ("secret_access_key", "s")];
    const SEED: [(&str, &str); 2] = [("S3_REPOSITORY_USER", "two"), ("S3_REPOSITORY_PASSWORD", "s")];
    const AWS: [(&str, &str); 3] = [
        ("AWS_ACCESS_KEY_ID", "three"),
        ("AWS_SECRET_ACCESS_KEY", "s"),
        ("AWS_SESSION_TOKEN", "t"),
    ];

    #[test]
    fn the_first_that_is_given_wins() {
        let all = [SEED.as_slice(), AWS.as_slice()].concat();
        assert_eq!(key_id(find(&SETTINGS, &all)), ("one".into(), None));
        assert_eq!(key_id(find(&[], &all)), ("two".into(), None));
        assert_eq!(key_id(find(&[], &AWS)), ("three".into(), Some("t".into())));
    }

    #[test]
    fn half_a_pair_is_a_mistake_that_names_the_other_half() {
        for (pair, is_setting) in [(SETTINGS, true), (SEED, false), ([AWS[0], AWS[1]], false)] {
            for (given, absent) in [(pair[0], pair[1]), (pair[1], pair[0])] {
                let found = if is_setting {
                    find(&[given], &AWS)
                } else {
                    find(&[], &[given])
                };
                let error = found.unwrap_err();
                assert_eq!(error.kind, ErrorKind::Config);
                assert!(error.message.contains(absent.0), "{}", error.message);
            }
        }
    }

    #[test]
    fn the_file_of_the_aws_tools_is_read_by_profile() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("credentials");
        let text = "# comment\n[default]\naws_access_key_id = four\naws_secret_access_key=s\n\n[ work ]\n\
                    aws_access_key_id=five\naws_secret_access_key = s=/+\naws_session_token = t\n[broken]\naws_access_key_id=x\n";
        std::fs::write(&file, text).unwrap();
        let path = ("AWS_SHARED_CREDENTIALS_FILE", file.to_str().unwrap());
        assert_eq!(key_id(find(&[], &[path])), ("four".into(), None));
        assert_eq!(
            key_id(find(&[], &[path, ("AWS_PROFILE", "work")])),
            ("five".into(), Some("t".into()))
        );
        assert_eq!(
            find(&[], &[path, ("AWS_PROFILE", "broken")]).unwrap_err().kind,
            ErrorKind::Config
        );
        assert_eq!(
            profile_value(text, "work", "aws_secret_access_key").unwrap(),
            "s=/+"
        );
        let error = find(&[], &[path, ("AWS_PROFILE", "nobody")]).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Auth);
        assert!(error.message.contains("`nobody`"), "{}", error.message);
        let absent = folder.path().join("absent");
        let absent = absent.to_str().unwrap();
        let error = find(&[], &[("AWS_SHARED_CREDENTIALS_FILE", absent)]).unwrap_err();
        assert!(
            error.kind == ErrorKind::Config && error.message.contains(absent),
            "{}",
            error.message
        );
    }

    #[test]
    fn the_machine_is_asked_only_at_amazon_and_where_that_is_allowed() {
        let find = |at_amazon, environment: &[(&str, &str)]| {
            let look_up = |name: &str| {
                let found = environment.iter().find(|(one, _)| *one == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            Credentials::find(&Settings::new(), &look_up, at_amazon)
        };
        let off = ("AWS_EC2_METADATA_DISABLED", "True");
        let token = ("AWS_WEB_IDENTITY_TOKEN_FILE", "/token");
        assert_eq!(find(false, &[]).unwrap_err().kind, ErrorKind::Auth);
        assert_eq!(find(true, &[off]).unwrap_err().kind, ErrorKind::Auth);
        for environment in [[].as_slice(), &[off, token], &[(off.0, "false")]] {
            let found = find(true, environment).unwrap();
            assert!(matches!(found, Credentials::Fetched(_)), "{found:?}");
        }
    }

    #[test]
    fn a_token_without_its_pair_is_a_mistake() {
        let error = find(&[("session_token", "t")], &AWS).unwrap_err();
        assert!(
            error.kind == ErrorKind::Config && error.message.contains("access_key_id"),
            "{}",
            error.message
        );
    }

    #[test]
    fn nothing_given_says_what_to_set() {
        let error = find(&[], &[]).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Auth);
        assert!(error.message.contains("S3_REPOSITORY_USER"), "{}", error.message);
        assert!(matches!(
            find(&[("anonymous", "true")], &[]).unwrap(),
            Credentials::Anonymous
        ));
    }

    #[test]
    fn no_secret_is_shown() {
        let shown = format!("{:?}", find(&SETTINGS, &[]).unwrap());
        assert!(!shown.contains("one") && !shown.contains('s'), "{shown}");
        let spaced = find(
            &[("access_key_id", "one"), ("secret_access_key", "sword fish")],
            &[],
        )
        .unwrap_err();
        assert!(!spaced.message.contains("fish"), "{}", spaced.message);
    }
}
