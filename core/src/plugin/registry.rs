//! Which library serves a scheme: registry files in order, then the libraries bundled with the program.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::adapter::PluginStorage;
use super::error::PluginError;
use super::load::ConnectorInfo;
use super::open::{self, HostOptions};
use super::registry_file::{Entry, Library, is_scheme, parse};
use super::verify;
use crate::storage::Storage;

/// The name of a registry file beside bundled libraries.
const BUNDLED_REGISTRY: &str = "connectors.toml";

/// Schemes served by bundled libraries, and the names of those.
const BUNDLED: &[(&str, &str)] = &[("file", "fs"), ("fs", "fs"), ("sftp", "sftp"), ("s3", "s3")];

/// All connectors the program knows.
#[derive(Debug, Default)]
pub struct Registry {
    sources: Vec<Source>,
    bundled: Vec<PathBuf>,
}

#[derive(Debug)]
struct Source {
    file: PathBuf,
    entries: Vec<Entry>,
}

/// A connector that is known, without loading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectorEntry {
    /// The schemes it is registered for.
    pub schemes: Vec<String>,
    /// The library's file, or its bare name when it cannot be found.
    pub library: PathBuf,
    /// The pinned BLAKE3, in hexadecimal; `None` for a bundled library without a registry file beside it.
    pub pinned: Option<String>,
    /// The registry file that names it, or the folder it is bundled in.
    pub origin: PathBuf,
}

/// A library that serves a scheme, and how it is to be opened.
struct Found<'a> {
    library: PathBuf,
    pin: Option<&'a blake3::Hash>,
    defaults: Option<&'a BTreeMap<String, String>>,
}

impl Registry {
    /// Reads registry files in search order (for a scheme, the first that has it wins), then the bundled folders.
    ///
    /// # Behavior
    /// - A file that does not exist is passed over; one that others can write, or with a mistake in it, is an error.
    /// - In a bundled folder, a `connectors.toml` decides, with its pins. Without one, a library
    ///   `libplakar_connector_<scheme>.so` there serves its scheme without a pin: the folder is the program's own, and
    ///   must not be writable by others either.
    pub fn load(files: &[PathBuf], bundled: &[PathBuf]) -> Result<Self, PluginError> {
        let beside = bundled.iter().map(|folder| folder.join(BUNDLED_REGISTRY));
        let mut sources = Vec::new();
        for file in files.iter().cloned().chain(beside) {
            if file.try_exists().map_err(|source| PluginError::Read {
                path: file.clone(),
                source,
            })? {
                let bytes = verify::read_trusted(&file)?;
                let entries = parse(&file, &text_of(&file, bytes)?)?;
                sources.push(Source { file, entries });
            }
        }
        let has_registry = |folder: &&PathBuf| {
            sources
                .iter()
                .any(|source| source.file == folder.join(BUNDLED_REGISTRY))
        };
        let bundled: Vec<PathBuf> = bundled
            .iter()
            .filter(|folder| !has_registry(folder))
            .cloned()
            .collect();
        Ok(Self { sources, bundled })
    }

    /// The schemes there are connectors for, in order of name.
    pub fn schemes(&self) -> Vec<String> {
        let registered = self
            .sources
            .iter()
            .flat_map(|source| &source.entries)
            .flat_map(|entry| entry.schemes.clone());
        let bundled = BUNDLED
            .iter()
            .filter(|(_, name)| self.bundled_library(name).is_some());
        let all: BTreeSet<String> = registered
            .chain(bundled.map(|(scheme, _)| (*scheme).to_owned()))
            .collect();
        all.into_iter().collect()
    }

    /// All connectors, also those that lose their schemes to an earlier one. Loads nothing.
    pub fn entries(&self) -> Vec<ConnectorEntry> {
        let registered = self.sources.iter().flat_map(|source| {
            source.entries.iter().map(|entry| ConnectorEntry {
                schemes: entry.schemes.clone(),
                library: self
                    .locate(entry, source)
                    .unwrap_or_else(|_| match &entry.library {
                        Library::Bare(name) => PathBuf::from(name),
                        Library::Absolute(path) => path.clone(),
                    }),
                pinned: Some(entry.pin.to_hex().to_string()),
                origin: source.file.clone(),
            })
        });
        let names: BTreeSet<&str> = BUNDLED.iter().map(|(_, name)| *name).collect();
        let bundled = names.into_iter().filter_map(|name| {
            let library = self.bundled_library(name)?;
            let schemes = BUNDLED
                .iter()
                .filter(|(_, of)| *of == name)
                .map(|(scheme, _)| (*scheme).to_owned())
                .collect();
            let origin = library.parent().unwrap_or(&library).to_owned();
            Some(ConnectorEntry {
                schemes,
                library,
                pinned: None,
                origin,
            })
        });
        registered.chain(bundled).collect()
    }

    /// Loads the connector of a scheme and tells what it says of itself.
    pub fn info(&self, scheme: &str) -> Result<ConnectorInfo, PluginError> {
        let found = self.find(scheme)?;
        open::describe(
            verify::library(&found.library, found.pin)?,
            &HostOptions::default(),
        )
    }

    /// Loads the connectors, in order of their schemes, until one gives itself this name. What cannot be loaded is passed over.
    pub fn info_of_name(&self, name: &str) -> Option<ConnectorInfo> {
        let schemes = self.schemes();
        let mut known = schemes.iter().filter_map(|scheme| self.info(scheme).ok());
        known.find(|info| info.name == name)
    }

    /// Opens a location with the connector of its scheme. Settings win over the registry's defaults.
    pub fn open(
        &self,
        location: &str,
        settings: &BTreeMap<String, String>,
        options: &HostOptions,
    ) -> Result<Arc<dyn Storage>, PluginError> {
        Ok(Arc::new(self.open_connector(location, settings, options)?))
    }

    /// Like [`open`](Self::open), for who needs more than a [`Storage`]: `cancel`, `close`.
    pub fn open_connector(
        &self,
        location: &str,
        settings: &BTreeMap<String, String>,
        options: &HostOptions,
    ) -> Result<PluginStorage, PluginError> {
        let scheme = scheme_of(location);
        let found = self.find(scheme)?;
        let mut all = found.defaults.cloned().unwrap_or_default();
        all.extend(settings.clone());
        let verified = verify::library(&found.library, found.pin)?;
        open::open(verified, scheme, location, &all, options)
    }

    fn find(&self, scheme: &str) -> Result<Found<'_>, PluginError> {
        for source in &self.sources {
            if let Some(entry) = source
                .entries
                .iter()
                .find(|entry| entry.schemes.iter().any(|one| one == scheme))
            {
                let library = self.locate(entry, source)?;
                return Ok(Found {
                    library,
                    pin: Some(&entry.pin),
                    defaults: Some(&entry.defaults),
                });
            }
        }
        let bundled = BUNDLED
            .iter()
            .find(|(one, _)| *one == scheme)
            .and_then(|(_, name)| self.bundled_library(name));
        let unknown = || PluginError::UnknownScheme {
            scheme: scheme.to_owned(),
            known: self.schemes(),
        };
        bundled
            .map(|library| Found {
                library,
                pin: None,
                defaults: None,
            })
            .ok_or_else(unknown)
    }

    /// The file of a registered library: an absolute path as it is, a bare name beside its registry or bundled.
    fn locate(&self, entry: &Entry, source: &Source) -> Result<PathBuf, PluginError> {
        let name = match &entry.library {
            Library::Absolute(path) => return Ok(path.clone()),
            Library::Bare(name) => name,
        };
        let mut folders: Vec<&Path> = source.file.parent().into_iter().collect();
        let registries = self
            .sources
            .iter()
            .filter(|other| other.file.ends_with(BUNDLED_REGISTRY));
        folders.extend(registries.filter_map(|other| other.file.parent()));
        folders.extend(self.bundled.iter().map(PathBuf::as_path));
        let found = folders
            .iter()
            .map(|folder| folder.join(name))
            .find(|path| path.symlink_metadata().is_ok());
        found.ok_or_else(|| PluginError::Missing {
            library: name.clone(),
            folders: folders
                .iter()
                .map(|folder| folder.display().to_string())
                .collect(),
        })
    }

    fn bundled_library(&self, name: &str) -> Option<PathBuf> {
        let file = format!(
            "{}plakar_connector_{name}{}",
            std::env::consts::DLL_PREFIX,
            std::env::consts::DLL_SUFFIX
        );
        self.bundled
            .iter()
            .map(|folder| folder.join(&file))
            .find(|path| path.symlink_metadata().is_ok())
    }
}

fn text_of(file: &Path, bytes: Vec<u8>) -> Result<String, PluginError> {
    String::from_utf8(bytes).map_err(|error| PluginError::Registry {
        file: file.to_owned(),
        line: 1 + error
            .as_bytes()
            .iter()
            .take(error.utf8_error().valid_up_to())
            .filter(|&&byte| byte == b'\n')
            .count(),
        message: "this is not UTF-8 text".into(),
    })
}

/// The scheme of a location: what stands before `://`, and `fs` for a plain path.
pub fn scheme_of(location: &str) -> &str {
    match location.split_once("://") {
        Some((scheme, _)) if is_scheme(scheme) => scheme,
        _ => "fs",
    }
}

/// The BLAKE3 of a library, in hexadecimal, for its pin. Refuses a file that others can write.
pub fn pin_of(library: &Path) -> Result<String, PluginError> {
    Ok(verify::library(library, None)?.hash.to_hex().to_string())
}

/// Loads a library that is not registered yet and tells what it is, for `connector add`. This runs its code.
pub fn inspect(library: &Path, options: &HostOptions) -> Result<ConnectorInfo, PluginError> {
    open::describe(verify::library(library, None)?, options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemes_of_locations() {
        for (location, scheme) in [
            ("/srv/backup", "fs"),
            ("relative/path", "fs"),
            ("fs:///srv", "fs"),
            ("file:///srv", "file"),
            ("sftp://me@host:22/x", "sftp"),
            ("s3://host/bucket", "s3"),
            ("/odd/path://x", "fs"),
            ("", "fs"),
        ] {
            assert_eq!(scheme_of(location), scheme, "{location}");
        }
    }
}
