//! The grammar of keys; what a key means is the host's business.

use crate::error::{Error, ErrorKind, Result};

/// Longest key the host uses, in bytes.
const MAX_KEY_BYTES: usize = 512;
/// Longest part between two slashes: fits any file system, with room for a temporary name.
const MAX_COMPONENT_BYTES: usize = 200;

/// Refuses (as `Unsupported`) what is not a key.
///
/// # Behavior
/// - A key is one or more components joined by single `/`: `packs/ab/ab3f`.
/// - A component is 1 to 200 of `a-z`, `0-9`, `-`, `.`, `_`, and does not start with `.`
///   (so `.`, `..` and the connector's own temporary names are never keys).
/// - A key has at most 512 bytes.
pub fn check_key(key: &str) -> Result<()> {
    let fault = if key.is_empty() {
        Some("it is empty")
    } else if key.len() > MAX_KEY_BYTES {
        Some("it is longer than 512 bytes")
    } else {
        key.split('/').find_map(component_fault)
    };
    fault.map_or(Ok(()), |fault| Err(refusal("key", key, fault)))
}

/// Refuses (as `Unsupported`) a listing prefix no key can start with.
///
/// # Behavior
/// - The empty prefix is all keys; any beginning of a valid key is a prefix, also one that ends within a component.
pub fn check_prefix(prefix: &str) -> Result<()> {
    let Some((folders, last)) = prefix.rsplit_once('/') else {
        return if prefix.is_empty() {
            Ok(())
        } else {
            check_key(prefix)
        };
    };
    check_key(folders)?;
    if last.is_empty() {
        Ok(())
    } else {
        component_fault(last).map_or(Ok(()), |fault| Err(refusal("prefix", prefix, fault)))
    }
}

fn component_fault(component: &str) -> Option<&'static str> {
    let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_');
    if component.is_empty() {
        Some("it has an empty component")
    } else if component.len() > MAX_COMPONENT_BYTES {
        Some("it has a component longer than 200 bytes")
    } else if component.starts_with('.') {
        Some("a component starts with a dot")
    } else if component.bytes().all(allowed) {
        None
    } else {
        Some("it has a character other than a-z, 0-9, '-', '.', '_' and '/'")
    }
}

fn refusal(what: &str, text: &str, fault: &str) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        format!("{text:?} is not a valid {what}: {fault}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_the_grammar_pass() {
        for key in [
            "config",
            "packs/ab/cd",
            "a-b",
            "a.b",
            "_x",
            "-",
            "0",
            "a/b/c/d/e",
            &"a".repeat(200),
        ] {
            assert_eq!(check_key(key), Ok(()), "{key}");
        }
    }

    #[test]
    fn keys_outside_the_grammar_are_refused() {
        let long = "a".repeat(201);
        let deep = "aaaaaaa/".repeat(70) + "a";
        for key in [
            "", "/", "/a", "a/", "a//b", ".", "..", "a/../b", ".tmp-1", "a/.b", "A", "a b", "a\0", "é",
            "a\\b", &long, &deep,
        ] {
            assert_eq!(
                check_key(key).unwrap_err().kind,
                ErrorKind::Unsupported,
                "{key:?}"
            );
        }
    }

    #[test]
    fn a_prefix_may_end_anywhere_in_a_key() {
        for prefix in ["", "p", "packs", "packs/", "packs/a", "a/b/"] {
            assert_eq!(check_prefix(prefix), Ok(()), "{prefix}");
        }
        for prefix in ["/", "a//", "../", "a/.", "A"] {
            assert!(check_prefix(prefix).is_err(), "{prefix}");
        }
    }
}
