//! The dates of HTTP headers.

use std::time::{Duration, SystemTime};

/// Parses a date such as `Sun, 06 Nov 1994 08:49:37 GMT`, the only form that servers write.
/// Returns `None` for other forms, and for years before 1970.
pub(super) fn parse(text: &str) -> Option<SystemTime> {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let words: Vec<&str> = text.split_whitespace().collect();
    let [_, day, month, year, time, "GMT"] = words[..] else {
        return None;
    };
    let number = |text: &str, max: u64| text.parse().ok().filter(|n: &u64| *n <= max);
    let day = number(day, 31)?.checked_sub(1)?;
    let month = MONTHS.iter().position(|known| *known == month)?;
    let year = number(year, 9999).filter(|year| *year >= 1970)?;
    let mut clock = time.split(':');
    let (h, m, s) = (clock.next()?, clock.next()?, clock.next()?);
    let seconds = number(h, 23)? * 3600 + number(m, 59)? * 60 + number(s, 60)?;
    let is_leap = |year: u64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days_before = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334][month];
    let leap_day = u64::from(month > 1 && is_leap(year));
    let years: u64 = (1970..year)
        .map(|year| 365 + u64::from(is_leap(year)))
        .sum();
    let days = years + days_before + leap_day + day;
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(days * 86400 + seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_parsed_as_date_1_does() {
        for (text, seconds) in [
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(784_111_777)),
            ("Thu, 01 Jan 1970 00:00:00 GMT", Some(0)),
            ("Tue, 29 Feb 2000 23:59:59 GMT", Some(951_868_799)),
            ("Sun, 29 Nov 2026 17:33:07 GMT", Some(1_795_973_587)),
            ("Sun, 06 Nov 1894 08:49:37 GMT", None),
            ("Sunday, 06-Nov-94 08:49:37 GMT", None),
            ("Sun, 00 Nov 1994 08:49:37 GMT", None),
            ("Sun, 06 Nov 99999999999999999999 08:49:37 GMT", None),
            ("", None),
        ] {
            let found = parse(text);
            let found = found.map(|t| t.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs());
            assert_eq!(found, seconds, "{text}");
        }
    }
}
