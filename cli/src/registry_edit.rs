//! Changes to the user's `connectors.toml`, keeping comments and layout. Reading it is the engine's.

use std::fs;
use std::io;
use std::path::Path;

use plakar_core::plugin::ConnectorInfo;
use toml_edit::{Array, ArrayOfTables, DocumentMut, Item, Table};

use crate::config::{EditLock, not_written, write_atomically};
use crate::error::{CommandError, Exit};
use crate::passphrase::shown;

/// A connector that another one took schemes from.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Displaced {
    /// Its library, as the registry names it.
    pub(crate) library: String,
    /// The schemes it no longer serves.
    pub(crate) schemes: Vec<String>,
}

/// Registers a connector with its pin, and gives those of other libraries that served some of its schemes.
///
/// Another library keeps the schemes that are its alone, and its defaults. An older registration of the same library goes
/// whole, since its pin no longer fits, and leaves its defaults and the comments above it to the new one.
pub(crate) fn add(file: &Path, info: &ConnectorInfo) -> Result<Vec<Displaced>, CommandError> {
    let Some(library) = info.library.to_str() else {
        return Err(CommandError::new(
            Exit::Failed,
            "the path of a library must be UTF-8",
        ));
    };
    let _lock = lock(file)?;
    let mut document = read(file)?;
    let connectors = document
        .entry("connector")
        .or_insert_with(|| Item::ArrayOfTables(ArrayOfTables::new()));
    let Some(connectors) = connectors.as_array_of_tables_mut() else {
        return Err(CommandError::new(
            Exit::Configuration,
            format!(
                "{}: `connector` must be written as [[connector]]",
                shown(file.as_os_str())
            ),
        ));
    };
    let mut displaced = Vec::new();
    let (mut place, mut defaults, mut comments) = (None, None, None);
    let mut at = 0;
    while let Some(table) = connectors.get_mut(at) {
        let (taken, kept): (Vec<String>, Vec<String>) = schemes_of(table)
            .into_iter()
            .partition(|scheme| info.schemes.contains(scheme));
        let is_same = table.get("library").and_then(Item::as_str) == Some(library);
        if taken.is_empty() && !is_same {
            at += 1;
            continue;
        }
        if !is_same {
            displaced.push(Displaced {
                library: table
                    .get("library")
                    .and_then(Item::as_str)
                    .unwrap_or("?")
                    .to_owned(),
                schemes: taken,
            });
            if !kept.is_empty() {
                table.insert("schemes", toml_edit::value(kept.iter().collect::<Array>()));
                at += 1;
                continue;
            }
        }
        if defaults.is_none() || is_same {
            defaults = table.get("defaults").cloned().or(defaults);
        }
        if place.is_none() {
            place = table.position();
            comments = Some(table.decor().clone());
        }
        connectors.remove(at);
    }
    let mut table = Table::new();
    table.insert(
        "schemes",
        toml_edit::value(info.schemes.iter().collect::<Array>()),
    );
    table.insert("library", toml_edit::value(library));
    table.insert("blake3", toml_edit::value(&info.blake3));
    if let Some(defaults) = defaults {
        table.insert("defaults", defaults);
    }
    if let Some(comments) = comments {
        *table.decor_mut() = comments;
    }
    // A table without a position is written after the one before it in the array.
    table.set_position(place);
    connectors.push(table);
    write(file, &document)?;
    Ok(displaced)
}

/// Removes the connector that serves a scheme, with all it serves, and gives its schemes. `None` when there is none.
pub(crate) fn remove(file: &Path, scheme: &str) -> Result<Option<Vec<String>>, CommandError> {
    let _lock = lock(file)?;
    let mut document = read(file)?;
    let Some(connectors) = document
        .get_mut("connector")
        .and_then(Item::as_array_of_tables_mut)
    else {
        return Ok(None);
    };
    let serves = |table: &Table| schemes_of(table).iter().any(|one| one == scheme);
    let Some(place) = connectors.iter().position(serves) else {
        return Ok(None);
    };
    let schemes = connectors.get(place).map(schemes_of);
    connectors.remove(place);
    write(file, &document)?;
    Ok(schemes)
}

fn schemes_of(table: &Table) -> Vec<String> {
    let schemes = table.get("schemes").and_then(Item::as_array);
    let names = schemes.into_iter().flatten().filter_map(|one| one.as_str());
    names.map(str::to_owned).collect()
}

fn read(file: &Path) -> Result<DocumentMut, CommandError> {
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => {
            return Err(CommandError::because(
                Exit::Configuration,
                &format!("cannot read {}", shown(file.as_os_str())),
                &error,
            ));
        }
    };
    text.parse().map_err(|error| {
        CommandError::because(
            Exit::Configuration,
            &format!("{} is not TOML", shown(file.as_os_str())),
            &error,
        )
    })
}

fn lock(file: &Path) -> Result<EditLock, CommandError> {
    EditLock::take(file).map_err(|error| not_written(file, &error))
}

fn write(file: &Path, document: &DocumentMut) -> Result<(), CommandError> {
    write_atomically(file, document.to_string().as_bytes()).map_err(|error| not_written(file, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(schemes: &[&str], blake3: &str) -> ConnectorInfo {
        ConnectorInfo {
            name: "test".to_owned(),
            version: "1.0.0".to_owned(),
            schemes: schemes.iter().map(|&scheme| scheme.to_owned()).collect(),
            library: "/opt/x.so".into(),
            abi: "1.0".to_owned(),
            blake3: blake3.to_owned(),
        }
    }

    fn other(schemes: &[&str], blake3: &str, library: &str) -> ConnectorInfo {
        ConnectorInfo {
            library: library.into(),
            ..info(schemes, blake3)
        }
    }

    #[test]
    fn a_library_added_again_replaces_itself_and_keeps_defaults_and_comments() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("new/connectors.toml");
        add(&file, &info(&["a", "b"], "11")).expect("added");
        add(&file, &other(&["z"], "99", "/opt/z.so")).expect("added");
        let text = fs::read_to_string(&file).expect("read");
        let text = text.replacen("\n\n", "\n[connector.defaults]\nx = 4\n\n", 1);
        fs::write(&file, format!("# mine\n{text}# the end\n")).expect("written");
        assert_eq!(add(&file, &info(&["b"], "22")).expect("replaced"), []);
        let text = fs::read_to_string(&file).expect("read");
        let whole = "# mine\n[[connector]]\nschemes = [\"b\"]\nlibrary = \"/opt/x.so\"\nblake3 = \"22\"\n\
                     [connector.defaults]\nx = 4\n\n\
                     [[connector]]\nschemes = [\"z\"]\nlibrary = \"/opt/z.so\"\nblake3 = \"99\"\n# the end\n";
        assert_eq!(text, whole);
        assert_eq!(remove(&file, "a").expect("read"), None);
        assert_eq!(remove(&file, "b").expect("removed"), Some(vec!["b".to_owned()]));
        assert_eq!(remove(&file, "z").expect("removed"), Some(vec!["z".to_owned()]));
        assert!(!fs::read_to_string(&file).expect("read").contains("connector"));
    }

    #[test]
    fn a_library_keeps_the_schemes_that_are_its_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("connectors.toml");
        add(&file, &info(&["a", "b"], "11")).expect("added");
        let text = fs::read_to_string(&file).expect("read");
        fs::write(&file, format!("{text}defaults = {{ x = 4 }}\n")).expect("written");
        let lost = add(&file, &other(&["b", "c"], "22", "/opt/y.so")).expect("added");
        let of_x = Displaced {
            library: "/opt/x.so".to_owned(),
            schemes: vec!["b".to_owned()],
        };
        assert_eq!(lost, [of_x]);
        let text = fs::read_to_string(&file).expect("read");
        assert!(
            text.contains(
                "schemes = [\"a\"]\nlibrary = \"/opt/x.so\"\nblake3 = \"11\"\ndefaults = { x = 4 }\n"
            ),
            "{text}"
        );
        assert_eq!(text.matches("defaults").count(), 1, "{text}");
        assert_eq!(
            remove(&file, "c").expect("removed"),
            Some(vec!["b".to_owned(), "c".to_owned()])
        );
        assert_eq!(remove(&file, "a").expect("removed"), Some(vec!["a".to_owned()]));
    }
}
