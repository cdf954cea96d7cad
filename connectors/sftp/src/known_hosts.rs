//! The files of known host keys: which key a host must show, and the recording of a new one.
//!
//! Strict: a host that is known by other keys is refused, whatever the settings say.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use hmac::{Hmac, KeyInit as _, Mac as _};
use plakar_plugin_api::{Error, ErrorKind, Result};
use russh::keys::ssh_key::certificate::CertType;
use russh::keys::ssh_key::known_hosts::{Entry, HostPatterns, Marker};
use russh::keys::ssh_key::public::KeyData;
use russh::keys::{Algorithm, Certificate, EcdsaCurve, HashAlg, PublicKey, PublicKeyOrCertificate};

use crate::pattern;

/// The keys that the files hold for one host.
#[derive(Debug, Clone)]
pub(crate) struct KnownHost {
    /// As the user knows it, for messages.
    shown: String,
    /// As it stands in the files: `host`, or `[host]:port`.
    name: String,
    /// Entries without a port say something of other ports too, but only when the key is the same.
    plain_name: Option<String>,
    records: Vec<Record>,
    plain_records: Vec<Record>,
    /// Where new keys are written, and whether names are hashed there.
    file: Option<PathBuf>,
    hashed: bool,
    accept_new: bool,
}

#[derive(Debug, Clone)]
struct Record {
    place: String,
    marker: Option<Marker>,
    key: PublicKey,
}

/// Which host is looked up where.
#[derive(Debug)]
pub(crate) struct Lookup<'a> {
    pub(crate) host: &'a str,
    pub(crate) port: u16,
    /// A name to use in place of host and port.
    pub(crate) alias: Option<&'a str>,
    /// The user's own files; new keys go into the first.
    pub(crate) user_files: Vec<PathBuf>,
    pub(crate) global_files: Vec<PathBuf>,
    pub(crate) accept_new: bool,
    /// Whether a new key is recorded under a hashed name; as its neighbours are, if not told.
    pub(crate) hash_names: Option<bool>,
}

impl Lookup<'_> {
    /// Reads the files. One that is missing holds no keys; a line that is no entry is passed over.
    pub(crate) fn read(self) -> KnownHost {
        let host = self.host.to_lowercase();
        let (name, plain_name) = match self.alias {
            Some(alias) => (alias.to_lowercase(), None),
            None if self.port == 22 => (host, None),
            None => (format!("[{host}]:{}", self.port), Some(host)),
        };
        let shown = match self.alias {
            Some(alias) => format!("{} (as {alias})", self.host),
            None => name.clone(),
        };
        let mut known = KnownHost {
            shown,
            name,
            plain_name,
            records: Vec::new(),
            plain_records: Vec::new(),
            file: self.user_files.first().cloned(),
            hashed: false,
            accept_new: self.accept_new,
        };
        for path in self.user_files.iter().chain(&self.global_files) {
            if let Ok(text) = std::fs::read(path) {
                known.take_file(path, &String::from_utf8_lossy(&text));
            }
        }
        known.hashed = self.hash_names.unwrap_or(known.hashed);
        known
    }
}

impl KnownHost {
    fn take_file(&mut self, path: &Path, text: &str) {
        for (number, line) in (1..).zip(text.lines()) {
            let words: Vec<&str> = line.split_whitespace().collect();
            if words.first().is_none_or(|word| word.starts_with('#')) {
                continue;
            }
            let Ok(entry) = words.join(" ").parse::<Entry>() else {
                continue;
            };
            let hosts = entry.host_patterns();
            self.hashed |=
                self.file.as_deref() == Some(path) && matches!(hosts, HostPatterns::HashedName { .. });
            let record = || Record {
                place: format!("{}:{number}", path.display()),
                marker: entry.marker().copied(),
                key: entry.public_key().clone(),
            };
            if applies(hosts, &self.name) {
                self.records.push(record());
            } else if self
                .plain_name
                .as_deref()
                .is_some_and(|name| applies(hosts, name))
            {
                self.plain_records.push(record());
            }
        }
    }

    /// The algorithms of host keys to ask for, those of recorded keys first: a server with keys of several kinds
    /// shows one that we know.
    pub(crate) fn algorithms(&self) -> Vec<Algorithm> {
        let plain = || {
            self.records
                .iter()
                .chain(&self.plain_records)
                .filter(|record| record.marker.is_none())
        };
        let (mut first, mut rest) = (Vec::new(), Vec::new());
        for algorithm in all_algorithms() {
            let recorded = plain().any(|record| same_kind(&record.key.algorithm(), &algorithm));
            if recorded { &mut first } else { &mut rest }.push(algorithm);
        }
        first.append(&mut rest);
        first
    }

    /// The algorithms for which to ask for a certificate: none, unless an authority is recorded.
    pub(crate) fn certificate_algorithms(&self) -> Vec<Algorithm> {
        let authority = self.authorities().next().is_some();
        if authority { all_algorithms() } else { Vec::new() }
    }

    fn authorities(&self) -> impl Iterator<Item = &Record> {
        let all = self.records.iter().chain(&self.plain_records);
        all.filter(|record| record.marker == Some(Marker::CertAuthority))
    }

    /// Accepts what a host shows, or says why not. A new key may be recorded.
    pub(crate) fn check(&self, shown: &PublicKeyOrCertificate) -> Result<()> {
        let key = shown.public_key();
        let signer = shown.certificate().map(Certificate::signature_key);
        self.refuse_revoked(key.key_data(), signer)?;
        if let Some(certificate) = shown.certificate()
            && self
                .authorities()
                .any(|record| record.key.key_data() == certificate.signature_key())
        {
            return self.check_certificate(certificate);
        }
        self.check_key(&key)
    }

    fn refuse_revoked(&self, key: &KeyData, signer: Option<&KeyData>) -> Result<()> {
        let all = self.records.iter().chain(&self.plain_records);
        let mut revoked = all.filter(|record| record.marker == Some(Marker::Revoked));
        let hit =
            revoked.find(|record| record.key.key_data() == key || Some(record.key.key_data()) == signer);
        hit.map_or(Ok(()), |record| {
            let (shown, place) = (&self.shown, &record.place);
            Err(refused(format!(
                "the host key of {shown} is revoked at {place}: this may not be the server it claims to be"
            )))
        })
    }

    fn check_certificate(&self, certificate: &Certificate) -> Result<()> {
        let wrong = |why: &str| {
            refused(format!(
                "the host certificate of {} is not valid: {why}",
                self.shown
            ))
        };
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        if certificate.cert_type() != CertType::Host {
            return Err(wrong("it is a user's certificate"));
        }
        let authority = certificate.signature_key().fingerprint(HashAlg::Sha256);
        if now < certificate.valid_after() || now >= certificate.valid_before() {
            return Err(wrong(
                "it has expired, or is not valid yet; look at the clocks, or have it signed again",
            ));
        }
        certificate
            .validate_at(now, [&authority])
            .map_err(|_error| wrong("the signature of its authority is wrong"))?;
        if !certificate.critical_options().is_empty() {
            return Err(wrong("it has critical options that are not known here"));
        }
        let name = self.plain_name.as_ref().unwrap_or(&self.name);
        if certificate
            .valid_principals()
            .iter()
            .any(|principal| principal.to_lowercase() == *name)
        {
            return Ok(());
        }
        Err(wrong(&format!(
            "it is not for {name} but for {:?}",
            certificate.valid_principals()
        )))
    }

    fn check_key(&self, key: &PublicKey) -> Result<()> {
        let plain = |record: &&Record| record.marker.is_none();
        let same = |record: &Record| record.key.key_data() == key.key_data();
        let mut recorded = self.records.iter().filter(plain);
        if recorded.clone().any(same) || self.plain_records.iter().filter(plain).any(same) {
            return Ok(());
        }
        if let Some(old) = recorded.find(|record| same_kind(&record.key.algorithm(), &key.algorithm())) {
            return Err(self.changed(old, key));
        }
        if let Some(old) = self.records.iter().find(plain) {
            return Err(self.changed(old, key));
        }
        if self.accept_new {
            return self.record(key);
        }
        Err(self.unknown(key))
    }

    fn changed(&self, old: &Record, key: &PublicKey) -> Error {
        refused(format!(
            "the host key of {} has CHANGED: it shows {}, recorded is {} at {}; someone may be between you and the server. \
             If you know that the server's key was replaced, remove that line",
            self.shown,
            described(key),
            described(&old.key),
            old.place,
        ))
    }

    fn unknown(&self, key: &PublicKey) -> Error {
        refused(format!(
            "the host key of {} is not known: {}; compare this with the server's own, then run again with \
             -accept-new-host-key (setting accept_new_host_key = \"true\"), or connect once with ssh",
            self.shown,
            described(key),
        ))
    }

    /// Appends a line for the key. A key that cannot be recorded is not accepted: it would be accepted again and again.
    fn record(&self, key: &PublicKey) -> Result<()> {
        let Some(path) = &self.file else {
            return Err(refused(format!(
                "the new host key of {} cannot be recorded: there is no home folder; set known_hosts_file",
                self.shown
            )));
        };
        self.append(path, key).map_err(|error| {
            let kind = ErrorKind::Config;
            let shown = &self.shown;
            Error::new(
                kind,
                format!(
                    "cannot record the new host key of {shown} in {}: {error}",
                    path.display()
                ),
            )
        })
    }

    fn append(&self, path: &Path, key: &PublicKey) -> std::io::Result<()> {
        let name = if self.hashed {
            hashed(&self.name)?
        } else {
            self.name.clone()
        };
        let bare = PublicKey::new(key.key_data().clone(), "");
        let key = bare.to_openssh().map_err(std::io::Error::other)?;
        if let Some(folder) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path)?;
        let mut last = [b'\n'];
        if file.seek(SeekFrom::End(0))? > 0 {
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
        }
        let gap = if last == [b'\n'] { "" } else { "\n" };
        file.write_all(format!("{gap}{name} {}\n", key.trim_end()).as_bytes())?;
        file.sync_all()
    }
}

/// A key's kind and fingerprint, as `ssh` shows them.
fn described(key: &PublicKey) -> String {
    format!("{} {}", key.algorithm(), key.fingerprint(HashAlg::Sha256))
}

fn refused(message: String) -> Error {
    Error::new(ErrorKind::Auth, message)
}

/// Keys of RSA are of one kind, whatever they sign with.
fn same_kind(one: &Algorithm, other: &Algorithm) -> bool {
    match (one, other) {
        (Algorithm::Rsa { .. }, Algorithm::Rsa { .. }) => true,
        _ => one == other,
    }
}

fn all_algorithms() -> Vec<Algorithm> {
    vec![
        Algorithm::Ed25519,
        Algorithm::Ecdsa {
            curve: EcdsaCurve::NistP256,
        },
        Algorithm::Ecdsa {
            curve: EcdsaCurve::NistP384,
        },
        Algorithm::Ecdsa {
            curve: EcdsaCurve::NistP521,
        },
        Algorithm::Rsa {
            hash: Some(HashAlg::Sha512),
        },
        Algorithm::Rsa {
            hash: Some(HashAlg::Sha256),
        },
    ]
}

fn applies(hosts: &HostPatterns, name: &str) -> bool {
    match hosts {
        HostPatterns::Patterns(patterns) => pattern::matches_list(patterns.iter().map(String::as_str), name),
        HostPatterns::HashedName { salt, hash } => digest(salt, name).is_some_and(|digest| digest == *hash),
    }
}

fn digest(salt: &[u8], name: &str) -> Option<[u8; 20]> {
    let mut mac = Hmac::<sha1::Sha1>::new_from_slice(salt).ok()?;
    mac.update(name.as_bytes());
    Some(mac.finalize().into_bytes().into())
}

fn hashed(name: &str) -> std::io::Result<String> {
    let mut salt = vec![0; 20];
    getrandom::fill(&mut salt).map_err(std::io::Error::other)?;
    let hash = digest(&salt, name).ok_or_else(|| std::io::Error::other("the name cannot be hashed"))?;
    Ok(HostPatterns::HashedName { salt, hash }.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";
    const OTHER: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA6rWI3G1sz07DnfFlrouTcysQlj2P+jpNSOEWD9OJ3X";
    const ECDSA: &str = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBNIuQgWh0w7HgwJUlzqIIh7G0fk8BLlVpwM8hpEwqVUW8bCMTSgpHkkOpWFg4wMvsC+VXAG0L6VFSFkCmZhdhBQ=";

    fn shown(key: &str) -> PublicKeyOrCertificate {
        PublicKey::from_openssh(key).unwrap().into()
    }

    fn known(text: &str, host: &str, port: u16, accept_new: bool) -> (tempfile::TempDir, KnownHost) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ssh/known_hosts");
        if !text.is_empty() {
            std::fs::create_dir(folder.path().join("ssh")).unwrap();
            std::fs::write(&file, text).unwrap();
        }
        let lookup = Lookup {
            host,
            port,
            alias: None,
            user_files: vec![file],
            global_files: Vec::new(),
            accept_new,
            hash_names: None,
        };
        (folder, lookup.read())
    }

    fn verdict(text: &str, host: &str, port: u16, key: &str) -> String {
        known(text, host, port, false)
            .1
            .check(&shown(key))
            .err()
            .map(|error| error.message)
            .unwrap_or_default()
    }

    #[test]
    fn a_recorded_key_is_accepted_under_every_kind_of_name() {
        let hash = hashed("[h]:2222").unwrap();
        for (line, host, port) in [
            (format!("h {ONE}"), "h", 22),
            (format!("a,H,b {ONE} comment with words"), "h", 22),
            (format!("\t h\t{ONE}"), "H", 22),
            (format!("[h]:2222 {ONE}"), "h", 2222),
            (format!("h {ONE}"), "h", 2222),
            (format!("*.net,!x.net {ONE}"), "a.net", 22),
            (format!("{hash} {ONE}"), "h", 2222),
            (format!("# h {OTHER}\nnonsense\nh {ECDSA}\nh {ONE}"), "h", 22),
        ] {
            assert_eq!(verdict(&line, host, port, ONE), "", "{line}");
        }
    }

    #[test]
    fn other_names_are_unknown() {
        for line in [
            format!("g {ONE}"),
            format!("[h]:2222 {ONE}"),
            format!("*,!h {ONE}"),
            format!("#h {ONE}"),
            String::new(),
        ] {
            let message = verdict(&line, "h", 22, ONE);
            assert!(
                message.contains("not known") && message.contains("-accept-new-host-key"),
                "{message}"
            );
            assert!(message.contains("ssh-ed25519 SHA256:"), "{message}");
        }
    }

    #[test]
    fn a_changed_key_is_refused_even_where_new_ones_are_accepted() {
        for text in [format!("\nh {OTHER}\n"), format!("\nh {ECDSA}\n")] {
            let (_folder, known) = known(&text, "h", 22, true);
            let message = known.check(&shown(ONE)).unwrap_err().message;
            assert!(
                message.contains("CHANGED") && message.contains("known_hosts:2"),
                "{message}"
            );
            assert_eq!(message.matches("SHA256:").count(), 2, "{message}");
        }
    }

    #[test]
    fn a_revoked_key_is_refused_wherever_else_it_is_listed() {
        let message = verdict(&format!("h {ONE}\n@revoked * {ONE}\n"), "h", 22, ONE);
        assert!(message.contains("revoked") && message.contains(":2"), "{message}");
        assert_eq!(
            verdict(&format!("h {ONE}\n@revoked * {OTHER}\n"), "h", 22, ONE),
            ""
        );
    }

    #[test]
    fn the_key_of_an_authority_is_no_host_key() {
        let text = format!("@cert-authority * {ONE}\n");
        assert!(verdict(&text, "h", 22, ONE).contains("not known"));
        assert!(!known(&text, "h", 22, false).1.certificate_algorithms().is_empty());
        assert!(
            known(&format!("h {ONE}\n"), "h", 22, false)
                .1
                .certificate_algorithms()
                .is_empty()
        );
    }

    #[test]
    fn kinds_of_recorded_keys_are_asked_for_first() {
        let (_folder, known) = known(&format!("h {ECDSA}\n"), "h", 22, false);
        let algorithms = known.algorithms();
        assert_eq!(
            algorithms[0],
            Algorithm::Ecdsa {
                curve: EcdsaCurve::NistP256
            }
        );
        assert_eq!(algorithms.len(), all_algorithms().len());
    }

    #[test]
    fn a_new_key_is_recorded_as_its_neighbours_are() {
        use std::os::unix::fs::PermissionsExt as _;
        let neighbour = hashed("other").unwrap();
        for (text, plain) in [
            (String::new(), true),
            (format!("g {OTHER}"), true),
            (format!("{neighbour} {OTHER}\n"), false),
        ] {
            let (folder, known) = known(&text, "h", 2222, true);
            known.check(&shown(ONE)).unwrap();
            let file = folder.path().join("ssh/known_hosts");
            let written = std::fs::read_to_string(&file).unwrap();
            assert!(written.starts_with(&text), "{written}");
            assert_eq!(
                written.contains("\n[h]:2222 ") || written.starts_with("[h]:2222 "),
                plain,
                "{written}"
            );
            assert_eq!(verdict(&written, "h", 2222, ONE), "");
            if text.is_empty() {
                assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
                assert_eq!(
                    file.parent().unwrap().metadata().unwrap().permissions().mode() & 0o777,
                    0o700
                );
            }
        }
    }

    #[test]
    fn a_new_key_that_cannot_be_recorded_is_refused() {
        let lookup = Lookup {
            host: "h",
            port: 22,
            alias: None,
            user_files: vec!["/proc/none/known_hosts".into()],
            global_files: Vec::new(),
            accept_new: true,
            hash_names: None,
        };
        let error = lookup.read().check(&shown(ONE)).unwrap_err();
        assert!(
            error.kind == ErrorKind::Config && error.message.contains("/proc/none"),
            "{}",
            error.message
        );
    }
}
