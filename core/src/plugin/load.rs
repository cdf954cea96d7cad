//! From checked bytes to a connector's functions: the dynamic loader and the two-way layout check.
//!
//! Libraries are never unloaded. It decides nothing about trust, and calls nothing but `info`.
#![expect(
    unsafe_code,
    reason = "one call of abi_stable, after its layout check was made by hand in both directions"
)]

use std::collections::HashMap;
use std::os::fd::IntoRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};

use plakar_plugin_api::abi::ConnectorModuleRef;
use plakar_plugin_api::abi_stable::StableAbi;
use plakar_plugin_api::abi_stable::abi_stability::abi_checking::{
    CheckingGlobals, check_layout_compatibility_with_globals,
};
use plakar_plugin_api::abi_stable::library::{LibHeader, LibraryError, lib_header_from_path};

use super::error::PluginError;
use super::verify::{Loadable, Verified};

/// What a connector says about itself, and where it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectorInfo {
    /// The connector's name.
    pub name: String,
    /// The connector's version.
    pub version: String,
    /// The schemes it serves.
    pub schemes: Vec<String>,
    /// The file it came from.
    pub library: PathBuf,
    /// The version of the plugin boundary it was built with: `1.<minor>`.
    pub abi: String,
    /// BLAKE3 of the file, in hexadecimal.
    pub blake3: String,
}

/// A loaded connector.
#[derive(Clone)]
pub(super) struct Loaded {
    pub(super) module: ConnectorModuleRef,
    pub(super) info: ConnectorInfo,
}

/// Everything loaded by this process, by its bytes: the same bytes are loaded once.
static LOADED: LazyLock<Mutex<HashMap<blake3::Hash, Loaded>>> = LazyLock::new(Mutex::default);

/// Loads a library, or finds it among those loaded. May hang if the library's own initialisers do.
pub(super) fn load(verified: Verified) -> Result<Loaded, PluginError> {
    let (hash, path) = (verified.hash, verified.path.clone());
    let known = LOADED
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .get(&hash)
        .cloned();
    if let Some(mut loaded) = known {
        loaded.info.library = path;
        return Ok(loaded);
    }
    let loadable = verified.into_loadable()?;
    let header = lib_header_from_path(&loadable.path()).map_err(|error| one_line(&path, &error));
    if let Loadable::Memory(descriptor) = loadable {
        // Kept open for ever, as the library is: see `Loadable::Memory`.
        let _number = descriptor.into_raw_fd();
    }
    let module = checked_module(&path, header?)?;
    let loaded = Loaded {
        module,
        info: describe(module, path, hash),
    };
    LOADED
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(hash, loaded.clone());
    Ok(loaded)
}

/// Checks the layout of everything that crosses, in both directions: the stock check refuses every older plugin.
fn checked_module(path: &Path, header: &'static LibHeader) -> Result<ConnectorModuleRef, PluginError> {
    let Some(theirs) = header.layout() else {
        return Err(PluginError::incompatible(path, "it does not describe its layout"));
    };
    let ours = <ConnectorModuleRef as StableAbi>::LAYOUT;
    // Tables of its own for each check: in those of the process, what one connector made of a type would be held
    // against the next. That matters only for types that connectors hand to each other, and ours hand none.
    let compatible = |a, b| check_layout_compatibility_with_globals(a, b, &CheckingGlobals::new());
    if let Err(newer) = compatible(ours, theirs)
        && let Err(older) = compatible(theirs, ours)
    {
        tracing::debug!(library = %path.display(), "layout, host against plugin: {newer}");
        tracing::debug!(library = %path.display(), "layout, plugin against host: {older}");
        return Err(PluginError::incompatible(
            path,
            "its plugin boundary has another layout than this program's",
        ));
    }
    // SAFETY: the library describes its root module's whole layout, and that was found compatible with ours just now:
    // as a newer one (ours is a prefix of it) or as an older one (it is a prefix of ours, and prefix types carry at run
    // time which fields they have).
    let module = unsafe { header.init_root_module_with_unchecked_layout::<ConnectorModuleRef>() };
    module.map_err(|error| one_line(path, &error))
}

fn describe(module: ConnectorModuleRef, library: PathBuf, hash: blake3::Hash) -> ConnectorInfo {
    let info = module.info()();
    ConnectorInfo {
        name: printable(&info.name),
        version: printable(&info.version),
        schemes: info.schemes.into_iter().map(Into::into).collect(),
        library,
        abi: format!("1.{}", info.abi_minor),
        blake3: hash.to_hex().to_string(),
    }
}

/// What a connector calls itself, fit for a message and for the name of a thread (which a NUL would end the program for).
fn printable(text: &str) -> String {
    const MOST_CHARACTERS: usize = 64;
    let shown = |character: char| if character.is_control() { '?' } else { character };
    text.chars().take(MOST_CHARACTERS).map(shown).collect()
}

/// The loader's errors can be pages long: the whole goes to the debug log, one line to the user.
fn one_line(path: &Path, error: &LibraryError) -> PluginError {
    tracing::debug!(library = %path.display(), "loading failed: {error}");
    let foreign = "it is not a plakar connector (it does not export one)";
    match error {
        LibraryError::OpenError { path: opened, err } => {
            let text = err
                .to_string()
                .replace(&opened.display().to_string(), "the library");
            PluginError::not_a_library(
                path,
                text.lines().next().unwrap_or("the dynamic loader refused it"),
            )
        }
        LibraryError::GetSymbolError { .. } => PluginError::not_a_library(path, foreign),
        LibraryError::IncompatibleVersionNumber {
            expected_version,
            actual_version,
            ..
        } => PluginError::incompatible(
            path,
            format!("it is for boundary {actual_version}, this program has {expected_version}"),
        ),
        LibraryError::InvalidAbiHeader(_) => PluginError::incompatible(path, "it uses another abi_stable"),
        LibraryError::RootModule { .. } => PluginError::incompatible(path, "its own start-up failed"),
        _ => PluginError::incompatible(path, "its plugin boundary is not this program's"),
    }
}

#[cfg(test)]
mod tests {
    use super::printable;

    #[test]
    fn a_connector_cannot_name_itself_into_trouble() {
        assert_eq!(printable("sftp 1.2"), "sftp 1.2");
        assert_eq!(printable("a\0b\n\u{1b}[2J"), "a?b??[2J");
        assert_eq!(printable(&"é".repeat(1000)).chars().count(), 64);
    }
}
