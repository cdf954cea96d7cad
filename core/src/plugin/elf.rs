//! A cheap look at a library's bytes, so that one cut short is an error and not a signal in the dynamic loader.
//!
//! It does not judge what the library does; the pin does that.

const HEADER_BYTES: usize = 64;
const PROGRAM_HEADER_BYTES: u64 = 56;
const SECTION_HEADER_BYTES: u64 = 64;
const SHARED_OBJECT: u16 = 3;
const LOADED: u32 = 1;
const NO_BITS: u32 = 8;

/// The machine number of this program; `None` where it is not worth knowing.
const MACHINE: Option<u16> = if cfg!(target_arch = "x86_64") {
    Some(62)
} else if cfg!(target_arch = "aarch64") {
    Some(183)
} else {
    None
};

/// Says what is wrong with the bytes of a library, if anything is. Only 64-bit little-endian ELF is looked at; on
/// systems with other formats everything passes.
pub(super) fn fault(bytes: &[u8]) -> Option<&'static str> {
    if !cfg!(all(
        target_os = "linux",
        target_pointer_width = "64",
        target_endian = "little"
    )) {
        return None;
    }
    check(bytes).err()
}

fn check(bytes: &[u8]) -> Result<(), &'static str> {
    let header = Reader(
        bytes
            .get(..HEADER_BYTES)
            .ok_or("it is too short to be a library")?,
    );
    if !bytes.starts_with(b"\x7fELF\x02\x01") {
        return Err("it is not a shared library of this system (64-bit ELF)");
    }
    if header.u16(16)? != SHARED_OBJECT {
        return Err("it is not a shared library");
    }
    if MACHINE.is_some_and(|machine| header.u16(18) != Ok(machine)) {
        return Err("it is built for another processor");
    }
    let (programs, sections) = (header.u64(32)?, header.u64(40)?);
    let (program_count, section_count) = (u64::from(header.u16(56)?), u64::from(header.u16(60)?));
    if u64::from(header.u16(54)?) != PROGRAM_HEADER_BYTES || program_count == 0 {
        return Err("its header is damaged");
    }
    for number in 0..program_count {
        let entry = table_entry(bytes, programs, number, PROGRAM_HEADER_BYTES)?;
        if entry.u32(0)? == LOADED {
            within(bytes, entry.u64(8)?, entry.u64(32)?)?;
        }
    }
    for number in 0..section_count {
        let entry = table_entry(bytes, sections, number, SECTION_HEADER_BYTES)?;
        if entry.u32(4)? != NO_BITS && number != 0 {
            within(bytes, entry.u64(24)?, entry.u64(32)?)?;
        }
    }
    Ok(())
}

const CUT_SHORT: &str = "it is cut short: parts that its header names are missing";

fn within(bytes: &[u8], offset: u64, length: u64) -> Result<(), &'static str> {
    let end = offset.checked_add(length).ok_or(CUT_SHORT)?;
    if end <= bytes.len() as u64 {
        Ok(())
    } else {
        Err(CUT_SHORT)
    }
}

fn table_entry(bytes: &[u8], table: u64, number: u64, size: u64) -> Result<Reader<'_>, &'static str> {
    let start = number
        .checked_mul(size)
        .and_then(|skip| table.checked_add(skip))
        .ok_or(CUT_SHORT)?;
    within(bytes, start, size)?;
    let start = usize::try_from(start).map_err(|_too_large| CUT_SHORT)?;
    bytes.get(start..).map(Reader).ok_or(CUT_SHORT)
}

/// Little-endian numbers at offsets.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&self, offset: usize) -> Result<[u8; N], &'static str> {
        self.0
            .get(offset..)
            .and_then(|rest| rest.first_chunk())
            .copied()
            .ok_or(CUT_SHORT)
    }

    fn u16(&self, offset: usize) -> Result<u16, &'static str> {
        self.array(offset).map(u16::from_le_bytes)
    }

    fn u32(&self, offset: usize) -> Result<u32, &'static str> {
        self.array(offset).map(u32::from_le_bytes)
    }

    fn u64(&self, offset: usize) -> Result<u64, &'static str> {
        self.array(offset).map(u64::from_le_bytes)
    }
}

#[cfg(all(
    test,
    target_os = "linux",
    target_pointer_width = "64",
    target_endian = "little"
))]
mod tests {
    use super::*;

    /// This very test program is a position-independent ELF file, of the same type as a library.
    fn a_library() -> Vec<u8> {
        let program = std::env::current_exe().expect("the test program has a path");
        std::fs::read(program).expect("the test program can be read")
    }

    #[test]
    fn a_whole_library_passes_and_every_cut_is_noticed() {
        let bytes = a_library();
        assert_eq!(check(&bytes), Ok(()));
        for length in [
            0,
            1,
            63,
            64,
            1000,
            bytes.len() / 4,
            bytes.len() / 2,
            bytes.len() - 1,
        ] {
            assert!(check(&bytes[..length]).is_err(), "{length} of {}", bytes.len());
        }
    }

    #[test]
    fn other_files_and_other_machines_are_named() {
        assert!(check(&[0; 100]).unwrap_err().contains("ELF"));
        let mut other = a_library();
        other[18] = 243;
        assert!(check(&other).unwrap_err().contains("processor"));
    }

    #[test]
    fn damaged_headers_never_panic() {
        let bytes = a_library();
        let start = &bytes[..4096];
        for at in 0..start.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut damaged = start.to_vec();
                damaged[at] = value;
                assert!(check(&damaged).is_err());
            }
        }
    }
}
