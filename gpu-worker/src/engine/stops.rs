//! Ends an answer at a stop string, and shows no character that might turn out to belong to one.
//!
//! A stop string does not respect the borders of tokens, so text is matched character by character: the outcome does
//! not depend on how it arrives in pieces. Text whose end is the beginning of some stop string is held back until it
//! can no longer become one; whatever was shown is therefore never taken back. Of several stop strings the one that is
//! complete first ends the answer, of those that end on the same character the longest. Comparing each suffix costs at
//! most the sum of the stop strings' lengths a character; the API allows 4 of 256 bytes.
//!
//! Edge cases: empty stop strings never match; with no stop strings nothing is ever held.

/// Looks for stop strings in a text that arrives in pieces.
#[derive(Clone, Debug)]
pub struct StopScanner {
    stops: Vec<String>,
    held: String,
}

/// What a piece of text leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scan {
    /// Show this (maybe empty) text and go on.
    Show(String),
    /// Show this (maybe empty) text: a stop string follows it, and the answer ends.
    Stop(String),
}

impl StopScanner {
    /// A scanner at the start of a text.
    #[must_use]
    pub fn new(stops: &[String]) -> Self {
        Self { stops: stops.iter().filter(|stop| !stop.is_empty()).cloned().collect(), held: String::new() }
    }

    /// Takes the next piece of text.
    pub fn push(&mut self, text: &str) -> Scan {
        for character in text.chars() {
            self.held.push(character);
            let complete = self.stops.iter().filter(|stop| self.held.ends_with(stop.as_str()));
            if let Some(longest) = complete.map(String::len).max() {
                let mut shown = core::mem::take(&mut self.held);
                shown.truncate(shown.len() - longest);
                return Scan::Stop(shown);
            }
        }
        let kept = self.undecided();
        let rest = self.held.split_off(self.held.len() - kept);
        Scan::Show(core::mem::replace(&mut self.held, rest))
    }

    /// The text still held back when the answer ends for another reason.
    pub fn finish(&mut self) -> String {
        core::mem::take(&mut self.held)
    }

    /// How many bytes at the end of the held text are the beginning of a stop string.
    fn undecided(&self) -> usize {
        let longest = self.stops.iter().map(|stop| stop.len() - 1).max().unwrap_or(0);
        let from = self.held.len().saturating_sub(longest);
        (from..self.held.len())
            .filter(|&start| self.held.is_char_boundary(start))
            .find(|&start| self.stops.iter().any(|stop| stop.starts_with(&self.held[start..])))
            .map_or(0, |start| self.held.len() - start)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scanner(stops: &[&str]) -> StopScanner {
        StopScanner::new(&stops.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    /// Everything shown, and whether a stop string ended it.
    fn run(stops: &[String], pieces: &[String]) -> (String, bool) {
        let mut scanner = StopScanner::new(stops);
        let mut shown = String::new();
        for piece in pieces {
            match scanner.push(piece) {
                Scan::Show(text) => shown += &text,
                Scan::Stop(text) => return (shown + &text, true),
            }
        }
        (shown + &scanner.finish(), false)
    }

    #[test]
    fn a_stop_string_across_pieces_is_found_and_not_shown() {
        let mut scanner = scanner(&["\n\nUser:"]);
        assert_eq!(scanner.push("well.\n"), Scan::Show("well.".into()));
        assert_eq!(scanner.push("\nUs"), Scan::Show(String::new()));
        assert_eq!(scanner.push("er: more"), Scan::Stop(String::new()));
    }

    #[test]
    fn what_can_no_longer_become_a_stop_string_is_shown() {
        let mut scanner = scanner(&["aab"]);
        assert_eq!(scanner.push("xa"), Scan::Show("x".into()));
        assert_eq!(scanner.push("aa"), Scan::Show("a".into()));
        assert_eq!(scanner.push("c"), Scan::Show("aac".into()));
        assert_eq!(scanner.push("aa"), Scan::Show(String::new()));
        assert_eq!(scanner.finish(), "aa");
    }

    #[test]
    fn empty_stop_strings_never_match() {
        assert_eq!(scanner(&["", ""]).push("text"), Scan::Show("text".into()));
    }

    #[test]
    fn of_stop_strings_that_end_together_the_longest_counts() {
        assert_eq!(scanner(&["c", "abc"]).push("xabc"), Scan::Stop("x".into()));
    }

    proptest! {
        #[test]
        fn the_outcome_does_not_depend_on_the_pieces(
            stops in proptest::collection::vec("[ab✓]{0,4}", 0..4),
            pieces in proptest::collection::vec("[ab✓c]{0,3}", 0..20),
        ) {
            let whole = pieces.concat();
            let (shown, ended) = run(&stops, &pieces);
            prop_assert_eq!((&shown, ended), (&run(&stops, std::slice::from_ref(&whole)).0, ended));
            prop_assert!(whole.starts_with(&shown));
            if ended {
                prop_assert!(stops.iter().any(|stop| !stop.is_empty() && whole[shown.len()..].starts_with(stop.as_str())));
            } else {
                prop_assert_eq!(&shown, &whole);
            }
            prop_assert!(!stops.iter().any(|stop| !stop.is_empty() && shown.contains(stop.as_str())));
        }
    }
}
