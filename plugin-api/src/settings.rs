//! The settings a connector is opened with: texts by name, from the user's configuration.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::error::{Error, ErrorKind, Result};

/// Texts by name. May hold secrets, so `Debug` shows names only.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Settings(BTreeMap<String, String>);

impl Settings {
    /// No settings.
    pub fn new() -> Self {
        Self::default()
    }

    /// The text of a setting.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The text of a setting; without it, a `Config` error that names it.
    pub fn required(&self, name: &str) -> Result<&str> {
        self.get(name)
            .ok_or_else(|| Error::new(ErrorKind::Config, format!("the setting `{name}` is missing")))
    }

    /// A setting as a number, a `bool` or anything else that parses; `None` when absent.
    pub fn parse<T: FromStr>(&self, name: &str) -> Result<Option<T>>
    where
        T::Err: fmt::Display,
    {
        self.get(name)
            .map(|text| {
                text.parse().map_err(|error| {
                    Error::new(
                        ErrorKind::Config,
                        format!("the setting `{name}` is wrong: {error}"),
                    )
                })
            })
            .transpose()
    }

    /// Refuses (as `Config`) any setting that is not in `known`, so that a misspelt name is not silently ignored.
    pub fn only(&self, known: &[&str]) -> Result<()> {
        let Some(unknown) = self.0.keys().find(|name| !known.contains(&name.as_str())) else {
            return Ok(());
        };
        let known = if known.is_empty() {
            "there are none".to_owned()
        } else {
            format!("known are {}", known.join(", "))
        };
        Err(Error::new(
            ErrorKind::Config,
            format!("unknown setting `{unknown}`: {known}"),
        ))
    }

    /// Names and texts, in order of names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, text)| (name.as_str(), text.as_str()))
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Settings {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        Self(
            pairs
                .into_iter()
                .map(|(name, text)| (name.into(), text.into()))
                .collect(),
        )
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_or_unknown_setting_is_named() {
        let settings: Settings = [("port", "http"), ("prot", "22")].into_iter().collect();
        assert!(
            settings
                .parse::<u16>("port")
                .unwrap_err()
                .message
                .contains("`port`")
        );
        assert!(settings.only(&["port"]).unwrap_err().message.contains("`prot`"));
        assert!(settings.required("host").unwrap_err().message.contains("`host`"));
        assert_eq!(settings.parse::<u16>("prot").unwrap(), Some(22));
        assert_eq!(settings.parse::<u16>("absent").unwrap(), None);
    }

    #[test]
    fn debug_output_shows_no_values() {
        let settings: Settings = [("password", "swordfish")].into_iter().collect();
        assert!(!format!("{settings:?}").contains("swordfish"));
    }
}
