//! The SFTP connector: objects as files on a server that speaks SFTP.
