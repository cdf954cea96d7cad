//! Plain types to boundary types and back, for the glue on one side and the host on the other.

use std::time::Duration;

use abi_stable::std_types::RVec;

use super::error::{RawError, RawErrorKind, RawErrorKind_NE};
use super::types::{RawCapabilities, RawListPage, RawObject, RawPutOptions, RawSpace};
use crate::error::{Error, ErrorKind};
use crate::types::{Capabilities, ListPage, ObjectInfo, PutMode, PutOptions, Space};

const ATOMIC_PUT: u64 = 1;
const DURABLE_PUT: u64 = 1 << 1;
const STRONGLY_CONSISTENT: u64 = 1 << 2;
const EXCLUSIVE_CREATE: u64 = 1 << 3;

/// What is taken of a connector's message: a line for a person is shorter, and a page of it must not fill the memory.
const MAX_MESSAGE_BYTES: usize = 4096;

/// The beginning of a text from the other side, as much of it as anybody would read.
pub fn beginning(text: &str) -> &str {
    text.get(..text.floor_char_boundary(MAX_MESSAGE_BYTES))
        .unwrap_or_default()
}

macro_rules! kinds {
    ($($kind:ident),*) => {
        impl From<ErrorKind> for RawErrorKind {
            fn from(kind: ErrorKind) -> Self {
                match kind { $(ErrorKind::$kind => Self::$kind),* }
            }
        }

        impl From<RawErrorKind> for ErrorKind {
            fn from(kind: RawErrorKind) -> Self {
                match kind { $(RawErrorKind::$kind => Self::$kind),* }
            }
        }

        #[cfg(test)]
        const ALL_KINDS: &[ErrorKind] = &[$(ErrorKind::$kind),*];
    };
}

kinds!(
    NotFound,
    AlreadyExists,
    Transient,
    Timeout,
    Auth,
    Permission,
    NoSpace,
    Corrupt,
    Unsupported,
    Cancelled,
    Config,
    Panicked,
    Other
);

impl From<Error> for RawError {
    fn from(error: Error) -> Self {
        let wait = error
            .retry_after
            .map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
        Self {
            kind: RawErrorKind_NE::new(error.kind.into()),
            message: error.message.into(),
            retry_after_ms_plus_1: wait.map_or(0, |ms| ms.saturating_add(1)),
            reserved: [0; 4],
        }
    }
}

impl From<RawError> for Error {
    fn from(raw: RawError) -> Self {
        let (kind, note) = match raw.kind.as_enum() {
            Ok(kind) => (ErrorKind::from(*kind), ""),
            Err(_) => (ErrorKind::Other, " (an error of a kind newer than this host)"),
        };
        let retry_after = raw
            .retry_after_ms_plus_1
            .checked_sub(1)
            .map(Duration::from_millis);
        Self {
            kind,
            message: format!("{}{note}", beginning(&raw.message)),
            retry_after,
        }
    }
}

impl From<&Capabilities> for RawCapabilities {
    fn from(plain: &Capabilities) -> Self {
        let bit = |promised: bool, bit: u64| if promised { bit } else { 0 };
        Self {
            promises: bit(plain.atomic_put, ATOMIC_PUT)
                | bit(plain.durable_put, DURABLE_PUT)
                | bit(plain.strongly_consistent, STRONGLY_CONSISTENT)
                | bit(plain.exclusive_create, EXCLUSIVE_CREATE),
            max_object_bytes: plain.max_object_bytes,
            preferred_pack_bytes: plain.preferred_pack_bytes,
            concurrency: plain.concurrency,
            reserved_small: 0,
            reserved: [0; 6],
        }
    }
}

impl From<RawCapabilities> for Capabilities {
    fn from(raw: RawCapabilities) -> Self {
        let promises = |bit: u64| raw.promises & bit != 0;
        Self {
            atomic_put: promises(ATOMIC_PUT),
            durable_put: promises(DURABLE_PUT),
            strongly_consistent: promises(STRONGLY_CONSISTENT),
            exclusive_create: promises(EXCLUSIVE_CREATE),
            max_object_bytes: raw.max_object_bytes,
            preferred_pack_bytes: raw.preferred_pack_bytes,
            concurrency: raw.concurrency,
        }
    }
}

impl From<ObjectInfo> for RawObject {
    fn from(plain: ObjectInfo) -> Self {
        Self {
            key: plain.key.into(),
            size_bytes: plain.size_bytes,
            reserved: [0; 2],
        }
    }
}

impl From<RawObject> for ObjectInfo {
    fn from(raw: RawObject) -> Self {
        Self {
            key: raw.key.into(),
            size_bytes: raw.size_bytes,
        }
    }
}

impl From<ListPage> for RawListPage {
    fn from(plain: ListPage) -> Self {
        let objects: RVec<RawObject> = plain.objects.into_iter().map(RawObject::from).collect();
        Self {
            objects,
            more: plain.more,
            reserved: [0; 2],
        }
    }
}

impl From<RawListPage> for ListPage {
    fn from(raw: RawListPage) -> Self {
        Self {
            objects: raw.objects.into_iter().map(ObjectInfo::from).collect(),
            more: raw.more,
        }
    }
}

impl From<PutOptions> for RawPutOptions {
    fn from(plain: PutOptions) -> Self {
        Self {
            mode: match plain.mode {
                PutMode::Create => 0,
                PutMode::Replace => 1,
            },
            durable: u32::from(plain.durable),
            blake3: plain.blake3,
            reserved: [0; 6],
        }
    }
}

impl TryFrom<RawPutOptions> for PutOptions {
    type Error = Error;

    /// Refuses what a newer host may ask for and this connector was not built to do.
    fn try_from(raw: RawPutOptions) -> Result<Self, Error> {
        let refused = |what: &str| {
            Error::new(
                ErrorKind::Unsupported,
                format!("the connector is too old for {what}"),
            )
        };
        let mode = match raw.mode {
            0 => PutMode::Create,
            1 => PutMode::Replace,
            _ => return Err(refused("this mode of put")),
        };
        if raw.durable > 1 || raw.reserved != [0; 6] {
            return Err(refused("an option of put"));
        }
        Ok(Self {
            mode,
            durable: raw.durable == 1,
            blake3: raw.blake3,
        })
    }
}

impl From<Space> for RawSpace {
    fn from(plain: Space) -> Self {
        Self {
            total_bytes: plain.total_bytes,
            available_bytes: plain.available_bytes,
            reserved: [0; 2],
        }
    }
}

impl From<RawSpace> for Space {
    fn from(raw: RawSpace) -> Self {
        Self {
            total_bytes: raw.total_bytes,
            available_bytes: raw.available_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_every_kind_survive_the_boundary() {
        for &kind in ALL_KINDS {
            for retry_after in [None, Some(Duration::ZERO), Some(Duration::from_millis(1500))] {
                let error = Error {
                    kind,
                    message: "what and why".into(),
                    retry_after,
                };
                assert_eq!(Error::from(RawError::from(error.clone())), error);
            }
        }
    }

    #[test]
    fn a_message_without_end_is_cut_between_two_characters() {
        let error = Error::new(ErrorKind::Auth, "é".repeat(1 << 20));
        let there = Error::from(RawError::from(error));
        assert_eq!(there.kind, ErrorKind::Auth);
        assert_eq!(there.message, "é".repeat(MAX_MESSAGE_BYTES / 2));
        assert_eq!(beginning("aé").len(), 3);
    }

    #[test]
    fn capabilities_survive_the_boundary() {
        for bits in 0..16_u8 {
            let capabilities = Capabilities {
                atomic_put: bits & 1 != 0,
                durable_put: bits & 2 != 0,
                strongly_consistent: bits & 4 != 0,
                exclusive_create: bits & 8 != 0,
                max_object_bytes: 5,
                preferred_pack_bytes: 6,
                concurrency: 7,
            };
            assert_eq!(
                Capabilities::from(RawCapabilities::from(&capabilities)),
                capabilities
            );
        }
    }

    #[test]
    fn options_of_a_newer_host_are_refused_not_ignored() {
        let options = PutOptions {
            mode: PutMode::Create,
            durable: true,
            blake3: [7; 32],
        };
        let raw = RawPutOptions::from(options);
        assert_eq!(PutOptions::try_from(raw), Ok(options));
        let reserved = [0, 0, 0, 0, 0, 1];
        for newer in [
            RawPutOptions { reserved, ..raw },
            RawPutOptions { mode: 2, ..raw },
        ] {
            assert_eq!(
                PutOptions::try_from(newer).unwrap_err().kind,
                ErrorKind::Unsupported
            );
        }
    }
}
