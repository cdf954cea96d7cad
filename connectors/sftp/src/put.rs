//! Storing an object: written whole under another name, then named.

use std::sync::Arc;

use plakar_plugin_api::{Error, ErrorKind, Host, PutMode, PutOptions, Result};

use crate::client::Lease;
use crate::error::{Fault, wrong_kind};
use crate::place::{Place, Temporary, parent};
use crate::protocol::{Attributes, Kind};
use crate::remote::Opened;
use crate::session::Session;
use crate::transfer::Writing;

/// What takes a server so much longer to take that a second session is worth a round trip more to open the file there.
const STRIPED_BYTES: usize = 4 << 20;

/// Stores an object as [`Connector::put`](plakar_plugin_api::Connector::put) says.
pub(crate) async fn put(
    place: &Arc<Place>,
    key: &str,
    bytes: &[u8],
    options: PutOptions,
    host: &Host,
) -> Result<()> {
    let session = place.client.lease_to_write(bytes.len()).await?;
    place.remove_orphans(&session);
    let folder = parent(key);
    let path = place.path(key);
    let mut temporary = Temporary::in_folder(place, &session, folder)?;
    let file = create(place, &session, folder, &temporary.path).await?;
    let written = write(
        place,
        &session,
        &file,
        &temporary.path,
        bytes,
        options.durable,
        host,
    )
    .await;
    let found = match written {
        Ok(found) => found,
        Err(fault) => {
            let error = place.explain_write(&session, &fault, "write", &path, bytes.len() as u64);
            return Err(error.await);
        }
    };
    if found.size.is_some_and(|size| size != bytes.len() as u64) {
        let message = format!(
            "cannot write {path}: the server holds {} of {} bytes",
            found.size.unwrap_or(0),
            bytes.len()
        );
        return Err(Error::new(ErrorKind::Corrupt, message));
    }
    drop(file);
    place.changed();
    let named = async {
        match options.mode {
            PutMode::Create => name_new(place, &session, &mut temporary, &path).await,
            PutMode::Replace => replace(place, &session, &mut temporary, &path).await,
        }
    };
    if options.durable {
        let folders = place.folders_to_sync(folder);
        let (named, opened) = tokio::join!(named, place.open_to_sync(&session, &folders));
        place.changed();
        match named {
            // A try whose answer was lost may have named it and not come so far as to sync the folders.
            Err(error) if error.kind == ErrorKind::AlreadyExists => {
                place.sync_opened(&session, &folders, opened).await?;
                return Err(error);
            }
            named => named?,
        }
        place.sync_opened(&session, &folders, opened).await?;
        place.are_durable(folder);
    } else {
        let named = named.await;
        place.changed();
        named?;
    }
    place.tidy(folder, &found);
    Ok(())
}

/// Creates a file, and its folder when that is missing.
async fn create<'s>(place: &Place, session: &'s Session, folder: &str, path: &str) -> Result<Opened<'s>> {
    let fault = match place.create_in(session, folder, path).await {
        Ok(file) => return Ok(file),
        Err(fault) => fault,
    };
    if !fault.is_missing() || folder.is_empty() {
        return Err(place
            .explain(session, &fault, "write into", &place.path(folder))
            .await);
    }
    place.make_folders(session, folder).await?;
    match session.create(path).await {
        Ok(file) => Ok(file),
        Err(fault) => Err(place
            .explain(session, &fault, "write into", &place.path(folder))
            .await),
    }
}

/// Writes all, syncs when asked to, and gives what the server then says of the file.
async fn write(
    place: &Place,
    lease: &Lease,
    file: &Opened<'_>,
    path: &str,
    bytes: &[u8],
    durable: bool,
    host: &Host,
) -> std::result::Result<Attributes, Fault> {
    let moved = |moved| host.progress(moved);
    let writing = Writing::new(bytes, lease.write_bytes(), durable && lease.abilities.fsync);
    let alone = writing.write(lease, &file.handle, moved);
    if bytes.len() < STRIPED_BYTES || !lease.may_be_striped() {
        return alone.await;
    }
    // What sessions there are, or come while there is still something to write, take part.
    let along = async |session: &Session| match session.open_too(path).await {
        Ok(file) if !writing.is_all_taken() => writing.write(session, &file.handle, moved).await.map(Some),
        _ => Ok(None),
    };
    let second = async {
        match writing.in_time(place.client.second(lease)).await {
            Some(session) => along(session).await,
            None => Ok(None),
        }
    };
    let other = async {
        match writing.in_time(place.client.idle()).await {
            Some(lease) => along(&lease).await,
            None => Ok(None),
        }
    };
    let (found, second, other) = tokio::try_join!(alone, second, other)?;
    // Each may have looked before the others' last pieces were there.
    let size = [second, other].into_iter().flatten().map(|found| found.size);
    let size = size.fold(found.size, Option::max);
    Ok(Attributes { size, ..found })
}

/// Gives the file its name, unless that is taken. A hard link refuses a taken name on every server; a rename does on most.
async fn name_new(place: &Place, session: &Session, temporary: &mut Temporary<'_>, path: &str) -> Result<()> {
    if session.abilities.hard_link {
        match session.hard_link(&temporary.path, path).await {
            // The other name goes when `temporary` does.
            Ok(()) => return Ok(()),
            Err(fault @ (Fault::Lost(_) | Fault::Nonsense(_))) => return Err(fault.about("create", path)),
            Err(_) => {}
        }
    }
    // The link was refused because the name is taken, or because the file system has no links.
    if is_taken(session, path).await? {
        return Err(wrong_kind(ErrorKind::AlreadyExists, path, "exists"));
    }
    match session.rename(&temporary.path, path).await {
        Ok(()) => {
            temporary.kept = true;
            Ok(())
        }
        Err(fault @ Fault::Refused(_)) => {
            if is_taken(session, path).await? {
                return Err(wrong_kind(ErrorKind::AlreadyExists, path, "exists"));
            }
            Err(place.explain(session, &fault, "create", path).await)
        }
        Err(fault) => Err(fault.about("create", path)),
    }
}

/// Gives the file its name, taken or not. Without the extension for it there is only the plain rename, which replaces on some
/// servers and is refused on others; to remove the old object first would leave a gap, so that is not done.
async fn replace(place: &Place, session: &Session, temporary: &mut Temporary<'_>, path: &str) -> Result<()> {
    let renamed = if session.abilities.posix_rename {
        session.replace(&temporary.path, path).await
    } else {
        session.rename(&temporary.path, path).await
    };
    match renamed {
        Ok(()) => {
            temporary.kept = true;
            Ok(())
        }
        Err(fault @ Fault::Refused(_)) => {
            if !session.abilities.posix_rename && is_taken(session, path).await? {
                let message = format!(
                    "cannot replace {path}: the server cannot replace a file in one step (it lacks posix-rename@openssh.com)"
                );
                return Err(Error::new(ErrorKind::Unsupported, message));
            }
            Err(place.explain(session, &fault, "replace", path).await)
        }
        Err(fault) => Err(fault.about("replace", path)),
    }
}

async fn is_taken(session: &Session, path: &str) -> Result<bool> {
    match session.stat_link(path).await {
        Ok(_) => Ok(true),
        Err(fault) if fault.is_missing() => Ok(false),
        Err(fault) => Err(fault.about("look at", path)),
    }
}

/// The error for something at a path that is no object.
pub(crate) fn not_an_object(path: &str, kind: Kind) -> Error {
    let what = match kind {
        Kind::Folder => "is a folder, not an object",
        Kind::Link => "is a symbolic link, not an object",
        _ => "is a special file, not an object",
    };
    wrong_kind(ErrorKind::Other, path, what)
}
