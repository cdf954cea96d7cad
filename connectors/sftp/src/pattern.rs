//! The patterns of `ssh`: `*`, `?`, and lists in which `!` excludes. Letters of either case are the same.

/// Whether a list applies: some pattern does, and none that begins with `!`.
pub(crate) fn matches_list<'a>(patterns: impl Iterator<Item = &'a str>, subject: &str) -> bool {
    let subject = subject.to_lowercase();
    let mut found = false;
    for pattern in patterns {
        let pattern = pattern.to_lowercase();
        match pattern.strip_prefix('!') {
            Some(excluded) if matches(excluded, &subject) => return false,
            Some(_) => {}
            None => found |= matches(&pattern, &subject),
        }
    }
    found
}

/// Goes back to the last star at most, so a long pattern takes no longer than pattern times subject.
fn matches(pattern: &str, subject: &str) -> bool {
    let (mut pattern, mut subject) = (pattern, subject);
    let mut retry: Option<(&str, &str)> = None;
    loop {
        let mut rest_of_subject = subject.chars();
        let next = rest_of_subject.next();
        let mut rest_of_pattern = pattern.chars();
        match (rest_of_pattern.next(), next) {
            (None, None) => return true,
            (Some('*'), _) => {
                pattern = rest_of_pattern.as_str();
                retry = Some((pattern, subject));
                continue;
            }
            (Some(wanted), Some(found)) if wanted == '?' || wanted == found => {
                (pattern, subject) = (rest_of_pattern.as_str(), rest_of_subject.as_str());
                continue;
            }
            _ => {}
        }
        let Some((after_star, from)) = retry else {
            return false;
        };
        let mut skipped = from.chars();
        if skipped.next().is_none() {
            return false;
        }
        (pattern, subject) = (after_star, skipped.as_str());
        retry = Some((after_star, skipped.as_str()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_ssh() {
        let matching = [
            ("*", ""),
            ("*", "x"),
            ("a?c", "abc"),
            ("*.example.org", "a.b.example.org"),
            ("A*", "abc"),
            ("a*b*c", "aXbYbc"),
            ("[h]:22*", "[h]:2222"),
            ("192.168.?.1", "192.168.0.1"),
        ];
        for (pattern, subject) in matching {
            assert!(
                matches_list([pattern].into_iter(), subject),
                "{pattern} {subject}"
            );
        }
        for (pattern, subject) in [
            ("", "x"),
            ("?", ""),
            ("a*b", "abc"),
            ("*.org", "org"),
            ("abc", "ab"),
            ("ab", "abc"),
        ] {
            assert!(
                !matches_list([pattern].into_iter(), subject),
                "{pattern} {subject}"
            );
        }
        assert!(!matches_list(["*", "!bad*"].into_iter(), "bad.host"));
        assert!(matches_list(["*", "!bad*"].into_iter(), "good.host"));
        assert!(!matches_list(["a*a*a*a*a*a*a*a*b"].into_iter(), &"a".repeat(200)));
    }
}
