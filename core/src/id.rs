//! The identifiers of the engine: fixed-size byte strings shown as lower-case hexadecimal. It knows nothing of how they are made.

use std::fmt;

/// Why a text is not an identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not {expected} hexadecimal digits")]
pub struct ParseIdError {
    expected: usize,
}

/// Decodes exactly `2 * N` hexadecimal digits of either case.
fn decode_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        for &digit in pair {
            let value = char::from(digit).to_digit(16)?;
            *byte = *byte << 4 | u8::try_from(value).ok()?;
        }
    }
    Some(bytes)
}

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident, $length:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $length]);

        impl $name {
            /// Length in bytes.
            pub const LENGTH: usize = $length;

            /// The bytes.
            pub fn as_bytes(&self) -> &[u8; $length] {
                &self.0
            }

            /// The first eight hexadecimal digits, as shown to users.
            pub fn short(&self) -> String {
                self.to_string().chars().take(8).collect()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl std::str::FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                decode_hex(text).map(Self).ok_or(ParseIdError { expected: 2 * $length })
            }
        }
    };
}

id_type!(
    /// Names a blob: the first 192 bits of the BLAKE3 of its plain bytes, keyed with a secret of the repository.
    BlobId,
    24
);
id_type!(
    /// Names a pack: BLAKE3 of the stored object.
    PackId,
    32
);
id_type!(
    /// Names an index segment: BLAKE3 of the stored object.
    SegmentId,
    32
);
id_type!(
    /// Names a snapshot: random, and kept when the snapshot is copied to another repository.
    SnapshotId,
    32
);
id_type!(
    /// Names a repository: random, made at creation.
    RepositoryId,
    16
);
id_type!(
    /// Names one writer at work: random.
    SessionId,
    16
);
id_type!(
    /// Names a key slot: random.
    SlotId,
    16
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_survive_text_and_bad_text_is_refused() {
        let id = SessionId(*b"0123456789abcdef");
        assert_eq!(id.to_string().parse::<SessionId>(), Ok(id));
        assert!("30".parse::<SessionId>().is_err());
        assert!("zz".repeat(16).parse::<SessionId>().is_err());
        assert_eq!(id.short(), "30313233");
    }
}
