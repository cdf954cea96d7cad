//! From a location to the path of the root folder; touches no file.

use std::path::{Path, PathBuf};

use plakar_plugin_api::{Error, ErrorKind, Result, Settings};

/// The root folder a location names: `fs:///abs/path`, `file:///abs/path` or a plain absolute path.
pub(crate) fn root_path(location: &str, settings: &Settings) -> Result<PathBuf> {
    settings.only(&[])?;
    let url_path = location
        .strip_prefix("fs://")
        .or_else(|| location.strip_prefix("file://"));
    let path = Path::new(url_path.unwrap_or(location));
    if location.contains('\0') {
        Err(wrong(location, "it has a NUL character"))
    } else if path.is_absolute() {
        Ok(path.to_owned())
    } else if url_path.is_some() {
        Err(wrong(
            location,
            "after `//` comes an absolute path, as in fs:///srv/backup",
        ))
    } else {
        Err(wrong(location, "it is not an absolute path"))
    }
}

fn wrong(location: &str, why: &str) -> Error {
    Error::new(ErrorKind::Config, format!("wrong location {location:?}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_and_plain_paths_name_the_same_folder() {
        for location in ["fs:///srv/backup", "file:///srv/backup", "/srv/backup"] {
            assert_eq!(
                root_path(location, &Settings::new()).unwrap(),
                Path::new("/srv/backup")
            );
        }
    }

    #[test]
    fn locations_without_an_absolute_path_are_refused() {
        for location in [
            "",
            "srv",
            "./srv",
            "fs://srv/backup",
            "file://",
            "s3://host/bucket",
            "/a\0b",
        ] {
            let error = root_path(location, &Settings::new()).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Config, "{location:?}");
        }
    }

    #[test]
    fn a_setting_that_does_not_exist_is_refused() {
        let settings = [("fsync", "never")].into_iter().collect();
        assert!(
            root_path("/srv", &settings)
                .unwrap_err()
                .message
                .contains("`fsync`")
        );
    }
}
