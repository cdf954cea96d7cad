//! Changes to the user's `connectors.toml`, keeping comments and layout. Reading it is the engine's.

use std::fs;
use std::io;
use std::path::Path;

use plakar_core::plugin::ConnectorInfo;
use toml_edit::{Array, ArrayOfTables, DocumentMut, Item, Table};

use crate::config::{EditLock, not_written, write_atomically};
use crate::error::{CommandError, Exit};
use crate::passphrase::shown;

/// Registers a connector with its pin, in place of any that served one of its schemes.
pub(crate) fn add(file: &Path, info: &ConnectorInfo) -> Result<(), CommandError> {
    let Some(library) = info.library.to_str() else {
        return Err(CommandError::new(
            Exit::Failed,
            "the path of a library must be UTF-8",
        ));
    };
    let _lock = lock(file)?;
    let mut document = read(file)?;
    let mut defaults = None;
    for scheme in &info.schemes {
        if let Some(table) = take(&mut document, scheme) {
            defaults = defaults.or(table.get("defaults").cloned());
        }
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
    connectors.push(table);
    write(file, &document)
}

/// Removes the connector that serves a scheme. False when there is none.
pub(crate) fn remove(file: &Path, scheme: &str) -> Result<bool, CommandError> {
    let _lock = lock(file)?;
    let mut document = read(file)?;
    match take(&mut document, scheme) {
        Some(_) => write(file, &document).map(|()| true),
        None => Ok(false),
    }
}

/// Takes the connector that serves a scheme out of the document.
fn take(document: &mut DocumentMut, scheme: &str) -> Option<Table> {
    let connectors = document.get_mut("connector")?.as_array_of_tables_mut()?;
    let serves = |table: &Table| {
        let schemes = table.get("schemes").and_then(Item::as_array);
        schemes.is_some_and(|schemes| schemes.iter().any(|one| one.as_str() == Some(scheme)))
    };
    let place = connectors.iter().position(serves)?;
    let table = connectors.get(place).cloned();
    connectors.remove(place);
    table
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

    #[test]
    fn a_connector_is_added_replaced_and_removed_and_comments_stay() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("new/connectors.toml");
        add(&file, &info(&["a", "b"], "11")).expect("added");
        let text = fs::read_to_string(&file).expect("read");
        fs::write(&file, format!("# mine\n{text}[connector.defaults]\nx = 4\n")).expect("written");
        add(&file, &info(&["b"], "22")).expect("replaced");
        let text = fs::read_to_string(&file).expect("read");
        assert!(
            text.contains("x = 4") && text.contains("\"22\"") && !text.contains("\"11\""),
            "{text}"
        );
        assert!(!remove(&file, "a").expect("read"));
        assert!(remove(&file, "b").expect("removed"));
        assert!(!fs::read_to_string(&file).expect("read").contains("connector"));
    }
}
