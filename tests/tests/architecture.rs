//! The shape of the code, held by tests: imports go one way, every file says what it owns, and what is confined stays confined.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Imports against the order of `core/src/lib.rs` that are accepted: file, module, why.
const ACCEPTED_IMPORTS: [(&str, &str, &str); 0] = [];

/// Where `unsafe` may stand, and why.
const UNSAFE: [(&str, &str); 4] = [
    (
        "plugin-api/src",
        "the generated tables of functions that cross the boundary",
    ),
    ("core/src/plugin/load.rs", "loading a library"),
    ("core/src/index/table/blocks.rs", "mapping an unlinked file"),
    ("cli/src/main.rs", "one number of the C library's allocator"),
];

/// Where `abi_stable` may be named: so that it can be replaced.
const ABI_STABLE: [&str; 4] = [
    "plugin-api/src",
    "core/src/plugin",
    "tests/hostile",
    "tests/fixtures/plugin-api-1.0.0",
];

fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests
        .parent()
        .expect("the tests are a folder of the workspace")
        .to_owned()
}

struct Source {
    /// Path below the root of the workspace.
    path: String,
    text: String,
}

impl Source {
    /// Lines of code with their numbers: without comments, strings, and the unit tests at the end of the file.
    fn code(&self) -> impl Iterator<Item = (usize, String)> + '_ {
        let end = self.text.find("\nmod tests {").unwrap_or(self.text.len());
        let text = self.text.get(..end).expect("the end was found in it");
        text.lines()
            .enumerate()
            .map(|(number, line)| (number + 1, without_strings(line)))
    }
}

/// A line without what stands in quotes and after `//`.
fn without_strings(line: &str) -> String {
    let mut code = String::new();
    let mut characters = line.chars().peekable();
    let mut quoted = false;
    while let Some(character) = characters.next() {
        match character {
            '\\' if quoted => drop(characters.next()),
            '"' => quoted = !quoted,
            '\'' if !quoted && characters.peek() == Some(&'"') => drop(characters.nth(1)),
            '/' if !quoted && characters.peek() == Some(&'/') => break,
            _ if quoted => {}
            _ => code.push(character),
        }
    }
    code
}

fn gather(folder: &Path, root: &Path, sources: &mut Vec<Source>) {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)
        .expect("the folder is there")
        .map(|entry| entry.expect("it can be read").path())
        .collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            gather(&path, root, sources);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            let below = path
                .strip_prefix(root)
                .expect("it lies below the root")
                .to_string_lossy()
                .into_owned();
            sources.push(Source {
                path: below,
                text: fs::read_to_string(&path).expect("it is text"),
            });
        }
    }
}

fn sources(folders: &[&str]) -> Vec<Source> {
    let root = root();
    let mut sources = Vec::new();
    for folder in folders {
        gather(&root.join(folder), &root, &mut sources);
    }
    assert!(!sources.is_empty());
    sources
}

fn connectors() -> Vec<String> {
    let folders = fs::read_dir(root().join("connectors")).expect("there are connectors");
    folders
        .map(|entry| {
            format!(
                "connectors/{}/src",
                entry.expect("it can be read").file_name().to_string_lossy()
            )
        })
        .collect()
}

fn all_sources() -> Vec<Source> {
    let connectors = connectors();
    let mut folders = vec!["core/src", "plugin-api/src", "cli/src"];
    folders.extend(connectors.iter().map(String::as_str));
    sources(&folders)
}

/// The modules declared in a file, in order.
fn declared(text: &str) -> Vec<String> {
    let declarations = text.lines().filter_map(|line| {
        let line = line
            .strip_prefix("pub ")
            .or(line.strip_prefix("pub(crate) "))
            .unwrap_or(line);
        line.strip_prefix("mod ")?.strip_suffix(';')
    });
    declarations.map(str::to_owned).collect()
}

/// What follows each `crate::` in the code of a file, up to the next `::`: with `use crate::{a, b}` and imports over several lines.
fn crate_paths(source: &Source) -> Vec<(usize, String)> {
    let mut paths = Vec::new();
    let lines: Vec<(usize, String)> = source.code().collect();
    for (position, (number, line)) in lines.iter().enumerate() {
        for (start, _) in line.match_indices("crate::") {
            let before = line.get(..start).and_then(|before| before.chars().next_back());
            if before.is_some_and(|before| before.is_alphanumeric() || before == '_' || before == '$') {
                continue;
            }
            let mut rest = line.get(start + "crate::".len()..).unwrap_or_default().to_owned();
            if !rest.starts_with('{') {
                paths.push((*number, first_name(&rest)));
                continue;
            }
            lines
                .iter()
                .skip(position + 1)
                .take(40)
                .for_each(|(_, line)| rest.push_str(line));
            paths.extend(top_names(&rest).into_iter().map(|name| (*number, name)));
        }
    }
    paths
}

fn first_name(path: &str) -> String {
    path.chars()
        .take_while(|&character| character.is_alphanumeric() || character == '_')
        .collect()
}

/// The names right inside the braces that a text begins with.
fn top_names(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut depth = 0;
    let mut item = String::new();
    for character in text.chars() {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => names.push(first_name(std::mem::take(&mut item).trim())),
            other if depth == 1 => item.push(other),
            _ => {}
        }
        if depth == 0 {
            names.push(first_name(item.trim()));
            break;
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

fn below(path: &str, allowed: &str) -> bool {
    path == allowed
        || path
            .strip_prefix(allowed)
            .is_some_and(|rest| rest.starts_with('/'))
}

/// Files in which code holds one of the words, with the line.
fn uses<'s>(sources: &'s [Source], words: &[&str]) -> Vec<(&'s str, String)> {
    let mut found = Vec::new();
    for source in sources {
        for (number, line) in source.code() {
            if words.iter().any(|word| line.contains(word)) {
                found.push((
                    source.path.as_str(),
                    format!("{}:{number}: {}", source.path, line.trim()),
                ));
            }
        }
    }
    found
}

#[test]
fn every_module_of_the_engine_imports_only_what_is_declared_above_it() {
    let root = root();
    let order = declared(&fs::read_to_string(root.join("core/src/lib.rs")).expect("the engine has a lib.rs"));
    assert!(order.len() >= 10, "the modules were found: {order:?}");
    let place = |name: &str| order.iter().position(|module| module == name);
    let mut wrong = Vec::new();
    let mut seen = 0;
    for source in sources(&["core/src"]) {
        let module = source
            .path
            .trim_start_matches("core/src/")
            .trim_end_matches(".rs");
        let module = module
            .split('/')
            .next()
            .expect("a path has a first part")
            .to_owned();
        let Some(own) = place(&module) else {
            assert_eq!(module, "lib", "{} is in no declared module", source.path);
            continue;
        };
        for (number, name) in crate_paths(&source) {
            let Some(imported) = place(&name) else { continue };
            seen += 1;
            let accepted = ACCEPTED_IMPORTS
                .iter()
                .any(|(file, module, _)| *file == source.path && *module == name);
            if imported > own && !accepted {
                wrong.push(format!(
                    "{}:{number}: `{module}` imports `{name}`, which is declared below it",
                    source.path
                ));
            }
        }
    }
    assert!(seen > 100, "imports were found: {seen}");
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// Stages of the pipeline may use those that are declared before them, and are not tied into a knot.
#[test]
fn the_stages_of_the_pipeline_do_not_import_each_other_in_circles() {
    let stages = sources(&["core/src/pipeline"]);
    let name = |source: &Source| {
        source
            .path
            .trim_start_matches("core/src/pipeline/")
            .trim_end_matches(".rs")
            .to_owned()
    };
    let mut left: Vec<(String, BTreeSet<String>)> = stages
        .iter()
        .filter(|source| !source.path.ends_with("/mod.rs"))
        .map(|source| {
            let lines = source.code().map(|(_, line)| line);
            let imports = lines.filter_map(|line| Some(first_name(line.trim().strip_prefix("use super::")?)));
            (name(source), imports.collect())
        })
        .collect();
    while !left.is_empty() {
        let free: BTreeSet<String> = left
            .iter()
            .filter(|(_, imports)| imports.is_empty())
            .map(|(stage, _)| stage.clone())
            .collect();
        assert!(!free.is_empty(), "these import each other in a circle: {left:?}");
        left.retain(|(stage, _)| !free.contains(stage));
        for (_, imports) in &mut left {
            imports.retain(|stage| !free.contains(stage));
        }
    }
}

#[test]
fn every_file_begins_by_saying_what_it_owns() {
    let silent: Vec<String> = all_sources()
        .into_iter()
        .filter(|source| !source.text.starts_with("//! "))
        .map(|source| source.path)
        .collect();
    assert!(silent.is_empty(), "{silent:?}");
}

#[test]
fn only_the_contract_and_the_loader_name_the_abi_layer() {
    let mut everything = all_sources();
    everything.extend(sources(&["tests"]));
    let wrong: Vec<String> = uses(&everything, &["abi_stable::"])
        .into_iter()
        .filter(|(path, _)| !ABI_STABLE.iter().any(|allowed| below(path, allowed)))
        .map(|(_, line)| line)
        .collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn unsafe_code_stands_only_where_it_must() {
    let wrong: Vec<String> = uses(
        &all_sources(),
        &["unsafe ", "unsafe{", "allow(unsafe_code", "expect(unsafe_code)"],
    )
    .into_iter()
    .filter(|(path, _)| !UNSAFE.iter().any(|(allowed, _)| below(path, allowed)))
    .map(|(_, line)| line)
    .collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn the_engine_prints_nothing_and_reads_no_environment() {
    let words = [
        "println!",
        "eprintln!",
        "print!(",
        "eprint!(",
        "dbg!",
        "env::var",
        "env::current",
        "env::args",
        "env::home",
        "env::temp",
        "stdout()",
        "stderr()",
        "clap",
        "anyhow",
    ];
    let found: Vec<String> = uses(&sources(&["core/src"]), &words)
        .into_iter()
        .map(|(_, line)| line)
        .collect();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn connectors_know_the_contract_and_nothing_of_the_engine() {
    let connectors = connectors();
    let folders: Vec<&str> = connectors.iter().map(String::as_str).collect();
    let mut everything = sources(&folders);
    everything.extend(sources(&["plugin-api/src"]));
    let found: Vec<String> = uses(&everything, &["plakar_core", "plakar_cli"])
        .into_iter()
        .map(|(_, line)| line)
        .collect();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn connectors_have_the_same_files() {
    for connector in connectors() {
        for name in ["lib", "config", "client", "storage", "error"] {
            let path = root().join(&connector).join(format!("{name}.rs"));
            assert!(
                path.exists(),
                "{} is missing: know one connector and you know all",
                path.display()
            );
        }
    }
}

#[test]
fn the_engine_never_links_a_connector() {
    let manifest = fs::read_to_string(root().join("core/Cargo.toml")).expect("the engine has a manifest");
    assert!(
        !manifest.contains("plakar-connector"),
        "connectors are loaded, not linked"
    );
}
