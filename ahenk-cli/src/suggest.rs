//! What was perhaps meant: the likest of some names, and ids by their beginnings.

use crate::error::{CliError, Kind, Result};

/// How alike two names must be, from 0 to 1, for one to be offered for the other.
const LIKENESS_MIN: f64 = 0.8;
/// Candidates that are named, at most.
const NAMED_MAX: usize = 5;

/// The likest of some names, if it is like enough.
pub(crate) fn nearest<'a>(text: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let likeness = |name: &str| strsim::jaro_winkler(&text.to_lowercase(), &name.to_lowercase());
    let likest = names.into_iter().map(|name| (likeness(name), name)).max_by(|a, b| a.0.total_cmp(&b.0))?;
    (likest.0 > LIKENESS_MIN).then_some(likest.1)
}

/// A hint, after the likest name if there is one.
pub(crate) fn did_you_mean<'a>(
    text: &str,
    names: impl IntoIterator<Item = &'a str>,
    hint: impl AsRef<str>,
) -> String {
    match nearest(text, names) {
        Some(name) => format!("did you mean `{name}`? {}", hint.as_ref()),
        None => hint.as_ref().to_owned(),
    }
}

/// The one of some ids that is this text, or else the only one that begins so. `what` is what they are ids of, `none` says
/// where to find them.
pub(crate) fn by_prefix<'a>(text: &str, ids: &'a [String], what: &str, none: &str) -> Result<&'a str> {
    if let Some(exact) = ids.iter().find(|id| *id == text) {
        return Ok(exact);
    }
    let begin: Vec<&String> = ids.iter().filter(|id| !text.is_empty() && id.starts_with(text)).collect();
    match begin.as_slice() {
        [one] => Ok(one),
        [] => Err(CliError::new(Kind::NotFound, format!("there is no {what} {text:?}")).hint(none)),
        several => Err(ambiguous(text, what, several.iter().map(|id| (*id).clone()))),
    }
}

/// Characters of an id that are shown at least.
const SHOWN_MIN: usize = 8;

/// How many characters of these ids tell each from the others.
pub(crate) fn shown_length(ids: &[&str]) -> usize {
    let distinct = |length: usize| {
        let mut begins: Vec<&str> = ids.iter().map(|id| id.get(..length).unwrap_or(id)).collect();
        begins.sort_unstable();
        begins.windows(2).all(|two| two[0] != two[1])
    };
    let longest = ids.iter().map(|id| id.len()).max().unwrap_or(0);
    (SHOWN_MIN..longest).find(|&length| distinct(length)).unwrap_or(longest)
}

/// Several fit where one was meant.
pub(crate) fn ambiguous(
    text: &str,
    what: &str,
    candidates: impl ExactSizeIterator<Item = String>,
) -> CliError {
    let count = candidates.len();
    let mut named = candidates.take(NAMED_MAX).collect::<Vec<_>>().join(", ");
    if count > NAMED_MAX {
        named.push_str(", …");
    }
    CliError::usage(format!("{text:?} fits {count} {what}s: {named}")).hint("give more of the id")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likest_name_is_offered_and_none_that_is_unlike() {
        let names = ["tasks", "notes", "Zones"];
        assert_eq!(nearest("tsks", names), Some("tasks"));
        assert_eq!(nearest("zone", names), Some("Zones"));
        assert_eq!(nearest("invoices", names), None);
        assert_eq!(did_you_mean("nots", names, "see `tables`"), "did you mean `notes`? see `tables`");
    }

    #[test]
    fn as_much_of_an_id_is_shown_as_tells_it_from_the_others() {
        assert_eq!(shown_length(&["aaaaaaaa-1-x", "bbbbbbbb-1-x"]), 8);
        assert_eq!(shown_length(&["aaaaaaaa-1-x", "aaaaaaaa-2-x"]), 10);
        assert_eq!(shown_length(&[]), 0);
    }

    #[test]
    fn an_id_is_known_by_its_beginning_if_no_other_begins_so() {
        let ids = ["abc:1", "abc:10", "abd:1"].map(str::to_owned);
        let of = |text: &str| by_prefix(text, &ids, "commit", "see the list");
        assert_eq!(of("abd").expect("one"), "abd:1");
        assert_eq!(of("abc:1").expect("itself"), "abc:1", "an exact id goes before its extensions");
        let error = of("ab").expect_err("three");
        assert_eq!(error.kind, Kind::Usage);
        assert!(error.message.contains("abc:10") && error.message.contains("3 commits"), "{error}");
        assert_eq!(of("x").expect_err("none").kind, Kind::NotFound);
        assert_eq!(of("").expect_err("nothing was said").kind, Kind::NotFound);
    }
}
