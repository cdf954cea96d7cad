//! The plain data a connector gives and takes; nothing here crosses the ABI as it stands (see `abi`).

/// What a storage promises. A promise that cannot be kept is `false`: the host then works without it or refuses.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "four independent promises, each named"
)]
pub struct Capabilities {
    /// A `put` is seen whole or not at all, whatever happens to the writer.
    pub atomic_put: bool,
    /// When a durable `put` returns, the object survives a loss of power, its directory entry too.
    pub durable_put: bool,
    /// An object is readable and listed, by everyone, as soon as its `put` has returned.
    pub strongly_consistent: bool,
    /// `PutMode::Create` over an existing key fails and leaves the object as it was, also when several race.
    pub exclusive_create: bool,
    /// Largest object accepted, in bytes.
    pub max_object_bytes: u64,
    /// Pack size that suits the storage, in bytes (16 to 128 MiB).
    pub preferred_pack_bytes: u64,
    /// How many calls may usefully run at the same time: the host starts that many threads (1 to 16).
    pub concurrency: u32,
}

/// Name and size of one stored object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectInfo {
    /// The flat key.
    pub key: String,
    /// Size in bytes.
    pub size_bytes: u64,
}

/// One page of a listing, in ascending byte order of keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListPage {
    /// The objects of this page.
    pub objects: Vec<ObjectInfo>,
    /// Whether keys after the last one may exist. A page without objects ends the listing.
    pub more: bool,
}

/// Whether `put` may replace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutMode {
    /// Fails with `AlreadyExists` when the key exists.
    Create,
    /// Replaces atomically.
    Replace,
}

/// How to store an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PutOptions {
    /// Create or replace.
    pub mode: PutMode,
    /// Return only when the object would survive a loss of power.
    pub durable: bool,
    /// BLAKE3 of the bytes, for a connector that can check what arrived.
    pub blake3: [u8; 32],
}

/// Space of the storage, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Capacity.
    pub total_bytes: u64,
    /// What this user may still write.
    pub available_bytes: u64,
}
