//! A phone number, as it is kept and as it may be shown.

use crate::signature::print;
use billfish_state::AppId;
use std::fmt;

/// Digits of a number with its country: the shortest that is in use, and the longest that E.164 allows.
const DIGITS: std::ops::RangeInclusive<usize> = 6..=15;
/// Half of a SHA-256: two phones do not meet in it.
const PRINT_CHARS: usize = 32;

/// A phone: 6 to 15 digits, the country's in front. Shown by its last two alone.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Phone(String);

impl Phone {
    /// What is legal, as an error says it.
    pub(crate) const LEGAL: &'static str =
        "must be 6 to 15 digits with the country's in front, as +8613800138000; the plus may be left out";

    /// Reads a number. A plus is one spelling of none, so both are one phone.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix('+').unwrap_or(text);
        // A zero in front is the country's own way of dialling: nobody knows which country's.
        let is_legal = DIGITS.contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.starts_with('0');
        is_legal.then(|| Self(digits.to_owned()))
    }

    /// Its digits: how the records have it.
    pub(crate) fn digits(&self) -> &str {
        &self.0
    }

    /// As a provider wants it.
    pub(crate) fn with_plus(&self) -> String {
        format!("+{}", self.0)
    }

    /// What stands for it in an app where nobody is to see it.
    pub(crate) fn print(&self, app: AppId) -> String {
        let mut print = print(format!("{app}:{}", self.0).as_bytes());
        print.truncate(PRINT_CHARS);
        print
    }
}

impl fmt::Display for Phone {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "*{}", &self.0[self.0.len() - 2..])
    }
}

impl fmt::Debug for Phone {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::Phone;
    use billfish_state::AppId;

    #[test]
    fn a_phone_has_one_form_with_or_without_its_plus() {
        let phone = Phone::parse("+8613800138000").unwrap();
        assert_eq!(Phone::parse("8613800138000").unwrap(), phone);
        assert_eq!((phone.digits(), phone.with_plus().as_str()), ("8613800138000", "+8613800138000"));
        for good in ["123456", "+123456", "123456789012345"] {
            assert!(Phone::parse(good).is_some(), "{good}");
        }
        for bad in ["", "+", "12345", "1234567890123456", "013800138000", "++123456", "12345a", "123 456", "１２３４５６", "123456\n"]
        {
            assert!(Phone::parse(bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn of_a_phone_two_digits_are_shown() {
        let phone = Phone::parse("8613800138042").unwrap();
        for shown in [format!("{phone}"), format!("{phone:?}")] {
            assert_eq!(shown, "*42");
        }
    }

    #[test]
    fn what_stands_for_a_phone_is_another_in_each_app() {
        let phone = Phone::parse("8613800138000").unwrap();
        let print = phone.print(AppId(10_001));
        assert!(print.len() == 32 && !print.contains("138001"), "{print}");
        assert_eq!(print, Phone::parse("+8613800138000").unwrap().print(AppId(10_001)));
        assert_ne!(print, phone.print(AppId(10_002)));
        assert_ne!(print, Phone::parse("8613800138001").unwrap().print(AppId(10_001)));
    }
}
