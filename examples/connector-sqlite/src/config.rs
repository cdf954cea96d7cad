//! From a location to the path of the database file; touches no file.

use std::path::{Path, PathBuf};

use plakar_plugin_api::{Error, ErrorKind, Result, Settings};

/// The file that `sqlite:///abs/path/file.db` names.
pub(crate) fn file_path(location: &str, settings: &Settings) -> Result<PathBuf> {
    settings.only(&[])?;
    let Some(path) = location.strip_prefix("sqlite://").map(Path::new) else {
        return Err(wrong(location, "it does not start with sqlite://"));
    };
    if location.contains('\0') {
        Err(wrong(location, "it has a NUL character"))
    } else if !path.is_absolute() {
        Err(wrong(
            location,
            "after `//` comes an absolute path, as in sqlite:///srv/backup.db",
        ))
    } else if location.ends_with('/') || path.file_name().is_none() {
        Err(wrong(location, "it names a folder, not a file"))
    } else {
        Ok(path.to_owned())
    }
}

fn wrong(location: &str, why: &str) -> Error {
    Error::new(ErrorKind::Config, format!("wrong location {location:?}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_a_file_by_its_absolute_path() {
        let path = file_path("sqlite:///srv/my backup.db", &Settings::new()).unwrap();
        assert_eq!(path, Path::new("/srv/my backup.db"));
    }

    #[test]
    fn what_names_no_file_is_refused() {
        for location in [
            "",
            "/srv/x.db",
            "sqlite:",
            "sqlite://",
            "sqlite://x.db",
            "sqlite:///",
            "sqlite:///srv/",
            "sqlite:///\0",
        ] {
            let error = file_path(location, &Settings::new()).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Config, "{location:?}");
        }
    }

    #[test]
    fn a_setting_that_does_not_exist_is_refused() {
        let settings = [("journal", "off")].into_iter().collect();
        assert!(
            file_path("sqlite:///x.db", &settings)
                .unwrap_err()
                .message
                .contains("`journal`")
        );
    }
}
