//! How sizes, durations, times and paths are written for people. Nothing here prints.

use std::borrow::Cow;
use std::fmt::Write as _;

use plakar_core::environment::Timestamp;

/// A size in decimal units, rounded as in `3.1 MB`, `82 kB`, `999 B`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1000.0;
    let mut unit = UNITS[0];
    for next in &UNITS[1..] {
        // What would be shown as 1000 of one unit is one of the next.
        if value < 999.5 {
            break;
        }
        value /= 1000.0;
        unit = next;
    }
    let tenths = (value * 10.0).round() / 10.0;
    if tenths < 10.0 {
        format!("{tenths:.1} {unit}")
    } else {
        format!("{value:.0} {unit}")
    }
}

/// A duration in the largest suitable units without trailing zeros: `72.55875ms`, `1.5s`, `2m3.25s`, `1h0m0s`, `0s`.
pub(crate) fn duration(nanoseconds: u64) -> String {
    const MICROSECOND: u64 = 1_000;
    const MILLISECOND: u64 = 1_000_000;
    const SECOND: u64 = 1_000_000_000;
    match nanoseconds {
        0 => "0s".to_owned(),
        _ if nanoseconds < MICROSECOND => format!("{nanoseconds}ns"),
        _ if nanoseconds < MILLISECOND => format!("{}µs", decimal(nanoseconds, MICROSECOND)),
        _ if nanoseconds < SECOND => format!("{}ms", decimal(nanoseconds, MILLISECOND)),
        _ => {
            let minutes = nanoseconds / (60 * SECOND);
            let seconds = decimal(nanoseconds % (60 * SECOND), SECOND);
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{seconds}s"),
                (0, minutes) => format!("{minutes}m{seconds}s"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
            }
        }
    }
}

/// A duration in whole seconds.
pub(crate) fn duration_in_seconds(nanoseconds: u64) -> String {
    const SECOND: u64 = 1_000_000_000;
    duration((nanoseconds + SECOND / 2) / SECOND * SECOND)
}

/// `value / unit` with as many decimals as it takes. `unit` is a power of ten.
fn decimal(value: u64, unit: u64) -> String {
    let (whole, rest) = (value / unit, value % unit);
    if rest == 0 {
        return whole.to_string();
    }
    let digits = unit.ilog10() as usize;
    let text = format!("{whole}.{rest:0digits$}");
    text.trim_end_matches('0').to_owned()
}

/// A time in UTC to the second: `2025-02-19T21:38:16Z`. A time outside the years -9999 to 9999 is shown in seconds.
pub(crate) fn time(time: Timestamp) -> String {
    match jiff::Timestamp::from_second(time.seconds) {
        Ok(time) => time.to_string(),
        Err(_) => format!("@{}", time.seconds),
    }
}

/// A time in UTC with its nanoseconds, for programs.
pub(crate) fn precise_time(stamp: Timestamp) -> String {
    let nanoseconds = i32::try_from(stamp.nanoseconds).unwrap_or(0);
    match jiff::Timestamp::new(stamp.seconds, nanoseconds) {
        Ok(time) => time.to_string(),
        Err(_) => time(stamp),
    }
}

/// `1 file`, `2 files`.
pub(crate) fn count(number: u64, singular: &str) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{number} {singular}{ending}")
}

/// Type and permissions as `ls -l` writes them; `letter` is the type.
pub(crate) fn mode(letter: char, mode: u32) -> String {
    let mut text = String::from(letter);
    for (shift, special, lower, upper) in [
        (6, 0o4000, 's', 'S'),
        (3, 0o2000, 's', 'S'),
        (0, 0o1000, 't', 'T'),
    ] {
        let bits = mode >> shift & 7;
        text.push(if bits & 4 == 0 { '-' } else { 'r' });
        text.push(if bits & 2 == 0 { '-' } else { 'w' });
        text.push(match (mode & special != 0, bits & 1 != 0) {
            (false, false) => '-',
            (false, true) => 'x',
            (true, true) => lower,
            (true, false) => upper,
        });
    }
    text
}

/// A name or path that cannot drive the terminal: as it is when it is harmless text, else quoted as the shell's `$'…'`.
pub(crate) fn escaped(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) if is_harmless(text) => Cow::Borrowed(text),
        _ => Cow::Owned(quoted(bytes)),
    }
}

/// A message from elsewhere on one line: every character that could drive the terminal is replaced.
pub(crate) fn one_line(text: &str) -> Cow<'_, str> {
    if is_harmless(text) {
        return Cow::Borrowed(text);
    }
    let mut line = String::with_capacity(text.len());
    for word in text
        .split(['\n', '\r'])
        .map(str::trim)
        .filter(|word| !word.is_empty())
    {
        if !line.is_empty() {
            line.push_str("; ");
        }
        for character in word.chars() {
            if is_hostile(character) {
                line.extend(character.escape_unicode());
            } else {
                line.push(character);
            }
        }
    }
    Cow::Owned(line)
}

fn is_harmless(text: &str) -> bool {
    // Nearly every name is ASCII: one pass over bytes decides.
    if text.is_ascii() {
        return text.bytes().all(|byte| (0x20..0x7f).contains(&byte));
    }
    !text.contains(is_hostile)
}

/// Whether a character moves the cursor, changes the direction of text, or ends the line.
fn is_hostile(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn quoted(bytes: &[u8]) -> String {
    let mut text = String::from("$'");
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\n' => text.push_str("\\n"),
                '\t' => text.push_str("\\t"),
                '\r' => text.push_str("\\r"),
                '\'' | '\\' => text.extend(['\\', character]),
                _ if is_hostile(character) => {
                    push_hex(&mut text, character.encode_utf8(&mut [0; 4]).as_bytes());
                }
                _ => text.push(character),
            }
        }
        push_hex(&mut text, chunk.invalid());
    }
    text.push('\'');
    text
}

fn push_hex(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        write!(text, "\\x{byte:02x}").expect("writing to a String cannot fail");
    }
}

/// Bytes as lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        write!(text, "{byte:02x}").expect("writing to a String cannot fail");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_decimal_with_two_figures_below_ten() {
        let shown = [
            (0, "0 B"),
            (9, "9 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (9_949, "9.9 kB"),
            (9_950, "10 kB"),
            (82_854, "83 kB"),
            (999_499, "999 kB"),
            (999_500, "1.0 MB"),
            (3_141_592, "3.1 MB"),
            (10_000_000_000, "10 GB"),
            (u64::MAX, "18 EB"),
        ];
        for (bytes, text) in shown {
            assert_eq!(size(bytes), text, "{bytes}");
        }
    }

    #[test]
    fn durations_have_no_trailing_zeros() {
        let shown = [
            (0, "0s"),
            (1, "1ns"),
            (1_500, "1.5µs"),
            (72_558_750, "72.55875ms"),
            (1_000_000_000, "1s"),
            (1_050_000_000, "1.05s"),
            (61_000_000_000, "1m1s"),
            (3_600_000_000_000, "1h0m0s"),
            (3_723_250_000_000, "1h2m3.25s"),
        ];
        for (nanoseconds, text) in shown {
            assert_eq!(duration(nanoseconds), text);
        }
        assert_eq!(duration_in_seconds(72_558_750), "0s");
        assert_eq!(duration_in_seconds(1_500_000_000), "2s");
    }

    #[test]
    fn times_are_utc_to_the_second() {
        assert_eq!(
            time(Timestamp {
                seconds: 1_740_001_096,
                nanoseconds: 5
            }),
            "2025-02-19T21:38:16Z"
        );
        assert_eq!(
            time(Timestamp {
                seconds: i64::MAX,
                nanoseconds: 0
            }),
            "@9223372036854775807"
        );
        let stamp = Timestamp {
            seconds: -1,
            nanoseconds: 500_000_000,
        };
        assert_eq!(precise_time(stamp), "1969-12-31T23:59:59.5Z");
    }

    #[test]
    fn modes_look_like_those_of_ls() {
        assert_eq!(mode('-', 0o644), "-rw-r--r--");
        assert_eq!(mode('d', 0o1777), "drwxrwxrwt");
        assert_eq!(mode('-', 0o6754), "-rwsr-sr--");
        assert_eq!(mode('-', 0o7000), "---S--S--T");
    }

    #[test]
    fn a_hostile_name_cannot_drive_the_terminal() {
        assert_eq!(escaped("/etc/hôtes \\ 'x'".as_bytes()), "/etc/hôtes \\ 'x'");
        assert_eq!(escaped(b"/a\x1b[31m\n"), "$'/a\\x1b[31m\\n'");
        assert_eq!(escaped(b"/b\xff'"), "$'/b\\xff\\''");
        assert_eq!(escaped("/c\u{202e}gpj".as_bytes()), "$'/c\\xe2\\x80\\xaegpj'");
        assert_eq!(escaped("\u{9b}2J".as_bytes()), "$'\\xc2\\x9b2J'");
        assert_eq!(one_line("first\n  second\x1b[2J"), "first; second\\u{1b}[2J");
    }
}
