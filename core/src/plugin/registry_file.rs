//! One `connectors.toml`: from text to entries, with the line of every mistake. It looks at no library.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;

use super::error::PluginError;

/// What a registry file says of one connector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) schemes: Vec<String>,
    pub(super) library: Library,
    pub(super) pin: blake3::Hash,
    pub(super) defaults: BTreeMap<String, String>,
}

/// Where a library is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Library {
    /// A name to be looked for in the known folders.
    Bare(String),
    /// A place.
    Absolute(PathBuf),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    #[serde(default)]
    connector: Vec<Spanned<RawEntry>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEntry {
    schemes: Spanned<Vec<Spanned<String>>>,
    library: Spanned<String>,
    blake3: Option<Spanned<String>>,
    #[serde(default)]
    defaults: BTreeMap<String, Spanned<toml::Value>>,
}

/// Reads the text of `file`; the path is for messages only.
pub(super) fn parse(file: &Path, text: &str) -> Result<Vec<Entry>, PluginError> {
    let wrong = |span: Range<usize>, message: String| PluginError::Registry {
        file: file.to_owned(),
        line: line_of(text, span.start),
        message,
    };
    let raw: RawFile = toml::from_str(text).map_err(|error| {
        wrong(
            error.span().unwrap_or_default(),
            error.message().replace('\n', ", "),
        )
    })?;
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut entries = Vec::with_capacity(raw.connector.len());
    for entry in raw.connector {
        let span = entry.span();
        let entry = entry.into_inner();
        if entry.schemes.get_ref().is_empty() {
            return Err(wrong(entry.schemes.span(), "`schemes` is empty".into()));
        }
        for scheme in entry.schemes.get_ref() {
            let name = scheme.get_ref();
            if !is_scheme(name) {
                return Err(wrong(
                    scheme.span(),
                    format!("`schemes`: {name:?} is not a URL scheme"),
                ));
            }
            let line = line_of(text, scheme.span().start);
            if let Some(first) = seen.insert(name.clone(), line) {
                return Err(wrong(
                    scheme.span(),
                    format!("`schemes`: `{name}` is already served by the connector of line {first}"),
                ));
            }
        }
        let Some(pin) = entry.blake3 else {
            let message = "`blake3` is missing: run `plakar connector add FILE`, which pins the library";
            return Err(wrong(span, message.into()));
        };
        let not_a_pin = |error| {
            wrong(
                pin.span(),
                format!("`blake3` is not 64 hexadecimal digits: {error}"),
            )
        };
        entries.push(Entry {
            pin: blake3::Hash::from_hex(pin.get_ref()).map_err(not_a_pin)?,
            library: library(entry.library.get_ref())
                .map_err(|message| wrong(entry.library.span(), message))?,
            defaults: entry
                .defaults
                .into_iter()
                .map(|(name, value)| {
                    let span = value.span();
                    let text = setting_text(value.into_inner());
                    let wrong_type = || {
                        wrong(
                            span,
                            format!("`defaults.{name}` is neither text, number nor true/false"),
                        )
                    };
                    text.ok_or_else(wrong_type).map(|text| (name.clone(), text))
                })
                .collect::<Result<_, _>>()?,
            schemes: entry
                .schemes
                .into_inner()
                .into_iter()
                .map(Spanned::into_inner)
                .collect(),
        });
    }
    Ok(entries)
}

fn library(text: &str) -> Result<Library, String> {
    let path = Path::new(text);
    if path.is_absolute() {
        Ok(Library::Absolute(path.to_owned()))
    } else if text.contains('/') || text == ".." || text == "." || text.is_empty() {
        Err(format!(
            "`library`: {text:?} is neither a bare file name nor an absolute path"
        ))
    } else {
        Ok(Library::Bare(text.to_owned()))
    }
}

fn setting_text(value: toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Float(number) => Some(number.to_string()),
        toml::Value::Boolean(truth) => Some(truth.to_string()),
        _ => None,
    }
}

/// Whether `text` can be the scheme of a URL.
pub(super) fn is_scheme(text: &str) -> bool {
    let starts_well = text.starts_with(|first: char| first.is_ascii_lowercase());
    starts_well
        && text
            .bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'+' | b'-' | b'.'))
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|&byte| byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIN: &str = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";

    fn parsed(text: &str) -> Result<Vec<Entry>, String> {
        parse(Path::new("/etc/plakar/connectors.toml"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn an_entry_is_read_whole() {
        let text = format!(
            "[[connector]]\nschemes = [\"sftp\", \"ssh\"]\nlibrary = \"libplakar_connector_sftp.so\"\nblake3 = \"{PIN}\"\n\
             [connector.defaults]\nconnections = 4\ntls = false\nuser = \"me\"\n\
             [[connector]]\nschemes = [\"x\"]\nlibrary = \"/opt/x.so\"\nblake3 = \"{PIN}\"\n"
        );
        let entries = parsed(&text).unwrap();
        assert_eq!(entries[0].schemes, ["sftp", "ssh"]);
        assert_eq!(
            entries[0].library,
            Library::Bare("libplakar_connector_sftp.so".into())
        );
        assert_eq!(entries[0].pin.to_hex().as_str(), PIN);
        let defaults: Vec<_> = entries[0]
            .defaults
            .iter()
            .map(|(k, v)| (k.as_str(), v.as_str()))
            .collect();
        assert_eq!(defaults, [("connections", "4"), ("tls", "false"), ("user", "me")]);
        assert_eq!(entries[1].library, Library::Absolute("/opt/x.so".into()));
        assert_eq!(parsed("").unwrap(), []);
    }

    #[test]
    fn every_mistake_names_file_line_and_key() {
        let entry = |schemes: &str, library: &str, pin: &str, more: &str| {
            format!(
                "# first line\n[[connector]]\nschemes = {schemes}\nlibrary = \"{library}\"\n{pin}\n{more}\n"
            )
        };
        let pin = &format!("blake3 = \"{PIN}\"");
        let good = entry("[\"a\"]", "a.so", pin, "");
        assert!(parsed(&good).is_ok());
        let cases = [
            (entry("[]", "a.so", pin, ""), 3, "schemes"),
            (entry("[\"A b\"]", "a.so", pin, ""), 3, "schemes"),
            (entry("[\"a\", \"a\"]", "a.so", pin, ""), 3, "schemes"),
            (
                format!("{good}{}", entry("[\"a\"]", "b.so", pin, "")),
                9,
                "line 3",
            ),
            (entry("[\"a\"]", "lib/a.so", pin, ""), 4, "library"),
            (entry("[\"a\"]", "../a.so", pin, ""), 4, "library"),
            (entry("[\"a\"]", "..", pin, ""), 4, "library"),
            (entry("[\"a\"]", "", pin, ""), 4, "library"),
            (entry("[\"a\"]", "a.so", "", ""), 2, "blake3"),
            (entry("[\"a\"]", "a.so", "blake3 = \"abc\"", ""), 5, "blake3"),
            (entry("[\"a\"]", "a.so", pin, "hash = 1"), 6, "hash"),
            (
                entry("[\"a\"]", "a.so", pin, "[connector.defaults]\nx = [1]"),
                7,
                "defaults.x",
            ),
            (entry("\"a\"", "a.so", pin, ""), 3, ""),
            ("\n[conector]\n".to_owned(), 2, "conector"),
            ("\n\n[[connector]\n".to_owned(), 3, ""),
        ];
        for (text, line, words) in cases {
            let message = parsed(&text).unwrap_err();
            assert!(
                message.starts_with(&format!("/etc/plakar/connectors.toml:{line}: ")),
                "{message}\n{text}"
            );
            assert!(message.contains(words) && !message.contains('\n'), "{message}");
        }
    }
}
