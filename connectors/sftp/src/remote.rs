//! Single requests with their answers as values: what a server can be asked about one file or folder.

use bytes::{Buf as _, Bytes};
use plakar_plugin_api::Space;

use crate::error::Fault;
use crate::protocol::{Attributes, Name, Reply, Request, open_flags, status};
use crate::session::{Pending, Session, UNEXPECTED};

/// Nobody but the owner reads our files and folders.
const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;

/// What `statvfs@openssh.com` tells of a file system.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FileSystem {
    pub(crate) space: Space,
    pub(crate) free_inodes: u64,
    pub(crate) inodes: u64,
    pub(crate) read_only: bool,
}

/// An open file or folder, closed when dropped. Nobody waits for that: errors of writes come with the writes.
#[derive(Debug)]
pub(crate) struct Opened<'s> {
    session: &'s Session,
    pub(crate) handle: Bytes,
}

impl Drop for Opened<'_> {
    fn drop(&mut self) {
        self.session.send_unheard(Request::Close { handle: &self.handle });
    }
}

impl Session {
    async fn handle(&self, request: Request<'_>) -> Result<Opened<'_>, Fault> {
        let pending = self.send(request).await?;
        self.opened(pending).await
    }

    /// What was opened, when the answer is there.
    pub(crate) async fn opened(&self, pending: Pending) -> Result<Opened<'_>, Fault> {
        match pending.reply().await? {
            Reply::Handle(handle) => Ok(Opened {
                session: self,
                handle,
            }),
            _ => Err(UNEXPECTED),
        }
    }

    pub(crate) async fn open_to_read(&self, path: &str) -> Result<Opened<'_>, Fault> {
        let pending = self.begin_to_open(path).await?;
        self.opened(pending).await
    }

    /// Asks for a file or a folder to be opened, see [`Session::opened`].
    pub(crate) async fn begin_to_open(&self, path: &str) -> Result<Pending, Fault> {
        self.send(Request::Open {
            path,
            flags: open_flags::READ,
            mode: FILE_MODE,
        })
        .await
    }

    /// Creates a file, which must not exist.
    pub(crate) async fn create(&self, path: &str) -> Result<Opened<'_>, Fault> {
        self.open_to_write(path, open_flags::CREATE | open_flags::EXCLUSIVE)
            .await
    }

    /// Opens a file that is being written on another session.
    pub(crate) async fn open_too(&self, path: &str) -> Result<Opened<'_>, Fault> {
        self.open_to_write(path, 0).await
    }

    async fn open_to_write(&self, path: &str, more_flags: u32) -> Result<Opened<'_>, Fault> {
        let flags = open_flags::WRITE | more_flags;
        self.handle(Request::Open {
            path,
            flags,
            mode: FILE_MODE,
        })
        .await
    }

    async fn attributes(&self, request: Request<'_>) -> Result<Attributes, Fault> {
        attributes(self.send(request).await?).await
    }

    /// What is at a path; a link is not followed.
    pub(crate) async fn stat_link(&self, path: &str) -> Result<Attributes, Fault> {
        self.attributes(Request::StatLink { path }).await
    }

    pub(crate) async fn stat(&self, path: &str) -> Result<Attributes, Fault> {
        self.attributes(Request::Stat { path }).await
    }

    async fn act(&self, request: Request<'_>) -> Result<(), Fault> {
        self.send(request).await?.done().await
    }

    pub(crate) async fn make_folder(&self, path: &str) -> Result<(), Fault> {
        self.begin_to_make_folder(path).await?.done().await
    }

    /// Asks for a folder to be made.
    pub(crate) async fn begin_to_make_folder(&self, path: &str) -> Result<Pending, Fault> {
        self.send(Request::MakeFolder {
            path,
            mode: FOLDER_MODE,
        })
        .await
    }

    pub(crate) async fn remove(&self, path: &str) -> Result<(), Fault> {
        self.act(Request::Remove { path }).await
    }

    /// Renames as the server does it: over an existing name it fails, or replaces.
    pub(crate) async fn rename(&self, from: &str, to: &str) -> Result<(), Fault> {
        self.act(Request::Rename { from, to }).await
    }

    /// Renames, and replaces in one step what has the name.
    pub(crate) async fn replace(&self, from: &str, to: &str) -> Result<(), Fault> {
        let fields = &[from.as_bytes(), to.as_bytes()];
        self.act(Request::Extended {
            name: "posix-rename@openssh.com",
            fields,
        })
        .await
    }

    /// A second name for a file; fails when the name is taken.
    pub(crate) async fn hard_link(&self, from: &str, to: &str) -> Result<(), Fault> {
        let fields = &[from.as_bytes(), to.as_bytes()];
        self.act(Request::Extended {
            name: "hardlink@openssh.com",
            fields,
        })
        .await
    }

    /// Asks for what is open to be synced.
    pub(crate) async fn begin_to_sync(&self, handle: &[u8]) -> Result<Pending, Fault> {
        self.send(Request::Extended {
            name: "fsync@openssh.com",
            fields: &[handle],
        })
        .await
    }

    /// The absolute form of a path, as the server sees it.
    pub(crate) async fn real_path(&self, path: &str) -> Result<String, Fault> {
        match self.request(Request::RealPath { path }).await? {
            Reply::Names(names) => {
                let first = names.into_iter().next().ok_or(UNEXPECTED)?;
                String::from_utf8(first.name.to_vec())
                    .map_err(|_bytes| Fault::Nonsense("the login folder's name is not UTF-8"))
            }
            _ => Err(UNEXPECTED),
        }
    }

    /// `None` when the server cannot tell.
    pub(crate) async fn file_system(&self, path: &str) -> Result<Option<FileSystem>, Fault> {
        if !self.abilities.space {
            return Ok(None);
        }
        let name = "statvfs@openssh.com";
        match self
            .request(Request::Extended {
                name,
                fields: &[path.as_bytes()],
            })
            .await?
        {
            Reply::Extended(mut told) => Ok(decode_file_system(&mut told)),
            _ => Err(UNEXPECTED),
        }
    }

    /// All entries of a folder. Several requests are kept in flight; the server answers each with some entries.
    pub(crate) async fn read_folder(&self, path: &str) -> Result<Vec<Name>, Fault> {
        const IN_FLIGHT: usize = 3;
        let folder = self.handle(Request::OpenFolder { path }).await?;
        let mut entries = Vec::new();
        let mut pending = std::collections::VecDeque::new();
        loop {
            while pending.len() < IN_FLIGHT {
                pending.push_back(
                    self.send(Request::ReadFolder {
                        handle: &folder.handle,
                    })
                    .await?,
                );
            }
            let Some(first) = pending.pop_front() else {
                return Err(UNEXPECTED);
            };
            match first.reply().await {
                Ok(Reply::Names(names)) if names.is_empty() => return Ok(entries),
                Ok(Reply::Names(names)) => entries.extend(names),
                Ok(_) => return Err(UNEXPECTED),
                Err(fault) if fault.code() == Some(status::END) => return Ok(entries),
                Err(fault) => return Err(fault),
            }
        }
    }
}

/// The attributes that were asked for, when the answer is there.
pub(crate) async fn attributes(pending: Pending) -> Result<Attributes, Fault> {
    match pending.reply().await? {
        Reply::Attributes(attributes) => Ok(attributes),
        _ => Err(UNEXPECTED),
    }
}

fn decode_file_system(told: &mut Bytes) -> Option<FileSystem> {
    let mut numbers = [0; 11];
    for number in &mut numbers {
        *number = told.try_get_u64().ok()?;
    }
    let [
        _,
        fragment,
        blocks,
        _,
        available,
        inodes,
        _,
        free_inodes,
        _,
        flags,
        _,
    ] = numbers;
    Some(FileSystem {
        space: Space {
            total_bytes: blocks.saturating_mul(fragment),
            available_bytes: available.saturating_mul(fragment),
        },
        free_inodes,
        inodes,
        read_only: flags & 1 != 0,
    })
}
