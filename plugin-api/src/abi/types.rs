//! Structs passed by value: their layout never changes within 1.x, so each carries reserved words.

use abi_stable::StableAbi;
use abi_stable::std_types::{RString, RVec};

/// Which call this is.
#[repr(C)]
#[derive(StableAbi, Debug, Clone, Copy)]
pub struct RawCall {
    /// The host's number of the call, 0 while opening; handed back in `HostServices`.
    pub id: u64,
    /// How long the host will wait, in milliseconds; 0 = unknown.
    pub timeout_ms: u64,
    /// Zero.
    pub reserved: [u64; 2],
}

/// A setting of the connector.
#[repr(C)]
#[derive(StableAbi, Clone)]
pub struct RawSetting {
    /// Its name.
    pub name: RString,
    /// Its text.
    pub value: RString,
}

/// See [`Capabilities`](crate::Capabilities).
#[repr(C)]
#[derive(StableAbi, Debug, Clone, Copy)]
pub struct RawCapabilities {
    /// Bit 0 `atomic_put`, 1 `durable_put`, 2 `strongly_consistent`, 3 `exclusive_create`; unknown bits are ignored.
    pub promises: u64,
    /// Largest object.
    pub max_object_bytes: u64,
    /// Pack size that suits.
    pub preferred_pack_bytes: u64,
    /// Calls at a time.
    pub concurrency: u32,
    /// Zero.
    pub reserved_small: u32,
    /// Zero.
    pub reserved: [u64; 6],
}

/// See [`ObjectInfo`](crate::ObjectInfo).
#[repr(C)]
#[derive(StableAbi, Debug, Clone)]
pub struct RawObject {
    /// The key.
    pub key: RString,
    /// Its size.
    pub size_bytes: u64,
    /// Zero.
    pub reserved: [u64; 2],
}

/// See [`ListPage`](crate::ListPage).
#[repr(C)]
#[derive(StableAbi, Debug, Clone)]
pub struct RawListPage {
    /// The objects.
    pub objects: RVec<RawObject>,
    /// Whether more may follow.
    pub more: bool,
    /// Zero.
    pub reserved: [u64; 2],
}

/// See [`PutOptions`](crate::PutOptions).
#[repr(C)]
#[derive(StableAbi, Debug, Clone, Copy)]
pub struct RawPutOptions {
    /// 0 create, 1 replace; anything else is `Unsupported`.
    pub mode: u32,
    /// 0 or 1.
    pub durable: u32,
    /// BLAKE3 of the bytes.
    pub blake3: [u8; 32],
    /// Zero.
    pub reserved: [u64; 6],
}

/// See [`Space`](crate::Space).
#[repr(C)]
#[derive(StableAbi, Debug, Clone, Copy)]
pub struct RawSpace {
    /// Capacity.
    pub total_bytes: u64,
    /// Still to be used.
    pub available_bytes: u64,
    /// Zero.
    pub reserved: [u64; 2],
}
