//! `plakar create`.

use clap::Args;
use plakar_core::repository::{Compression, CreateError, CreateOptions, Repository};
use serde_json::json;

use crate::context::{Context, Place, shown_location};
use crate::engine_errors::create_error;
use crate::error::{CommandError, Exit};
use crate::passphrase::{HOW_TO_GIVE, Secret, Strength, accept_new, ask_new};

/// Create a repository
///
/// The passphrase is the only way to the data: it is stored nowhere and cannot be recovered. It is taken from -keyfile, the
/// configuration or `$PLAKAR_PASSPHRASE`, or asked for twice.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  plakar at /var/backups create
  plakar at /var/backups create -keyfile /root/plakar.key
  plakar at /mnt/usb create -no-encryption -compression zstd:9")]
pub(crate) struct CreateArgs {
    /// Store the data unencrypted: whoever can read the repository can read the data
    #[arg(long)]
    no_encryption: bool,
    /// Accept a passphrase that is easy to guess
    #[arg(long, conflicts_with = "no_encryption")]
    weak_passphrase: bool,
    /// How to compress: none, zstd, or zstd:LEVEL with a level from 1 (fast) to 22 (small)
    #[arg(long, value_name = "METHOD", default_value = "zstd", value_parser = compression)]
    compression: Compression,
}

/// Fast, and smaller by far than none.
const DEFAULT_LEVEL: i32 = 3;

fn compression(text: &str) -> Result<Compression, String> {
    match text.split_once(':') {
        None if text == "none" => Ok(Compression::None),
        None if text == "zstd" => Ok(Compression::Zstd(DEFAULT_LEVEL)),
        Some(("zstd", level)) => match level.parse() {
            Ok(level) if (1..=22).contains(&level) => Ok(Compression::Zstd(level)),
            _ => Err("the level must be from 1 to 22".to_owned()),
        },
        _ => Err("use none, zstd or zstd:LEVEL".to_owned()),
    }
}

impl CreateArgs {
    pub(crate) fn run(self, context: &Context) -> Result<Exit, CommandError> {
        let place = context.place()?;
        if self.no_encryption && context.options.keyfile.is_some() {
            return Err(CommandError::usage(
                "create: -keyfile cannot be used with -no-encryption",
            ));
        }
        let storage = context.storage_at(&place)?;
        // Before any question is asked: a place that will be refused is refused now.
        if Repository::read_config(&*storage).is_ok() {
            let location = shown_location(&place.location);
            let message = format!("cannot create a repository at {location}: one is there already");
            return Err(CommandError::new(Exit::CannotCreate, message).hint("choose another place"));
        }
        if !Repository::has_room(&*storage).map_err(|error| create_error(&place, &error))? {
            let location = storage.location().to_owned();
            return Err(create_error(&place, &CreateError::NotEmpty { location }));
        }
        let secret = if self.no_encryption {
            None
        } else {
            Some(self.secret(context, &place)?)
        };
        let options = CreateOptions {
            passphrase: secret.as_ref().map(Secret::passphrase),
            compression: self.compression,
            slot_label: "created with the repository".to_owned(),
            ..CreateOptions::default()
        };
        let repository = Repository::create(storage, options, context.environment.clone())
            .map_err(|error| create_error(&place, &error))?;
        if context.output.verbosity().json {
            let location = shown_location(repository.location());
            let id = repository.config().repository_id.to_string();
            let encrypted = !self.no_encryption;
            context.output.write_event(
                &json!({"event": "created", "location": location, "repository": id, "encrypted": encrypted}),
            );
        }
        Ok(Exit::Done)
    }

    fn secret(&self, context: &Context, place: &Place<'_>) -> Result<Secret, CommandError> {
        let strength = if self.weak_passphrase {
            Strength::Any
        } else {
            Strength::Strong
        };
        match context
            .given_secret(place)?
            .or_else(|| Secret::from_variable("PLAKAR_PASSPHRASE"))
        {
            Some(secret) => accept_new(secret, strength),
            None => ask_new("repository passphrase", strength, HOW_TO_GIVE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compression_is_none_or_zstd_with_a_level() {
        assert!(matches!(compression("none"), Ok(Compression::None)));
        assert!(matches!(
            compression("zstd"),
            Ok(Compression::Zstd(DEFAULT_LEVEL))
        ));
        assert!(matches!(compression("zstd:19"), Ok(Compression::Zstd(19))));
        for wrong in ["", "lz4", "zstd:", "zstd:0", "zstd:23", "none:1"] {
            assert!(compression(wrong).is_err(), "{wrong}");
        }
    }
}
