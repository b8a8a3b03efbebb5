//! `strftime_now` of chat templates: today's date as Python's `strftime` writes it, in UTC.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::{Error, ErrorKind};

/// `datetime.now().strftime(format)`, in UTC so that a prompt does not depend on the machine's time zone.
pub(super) fn strftime_now(format: String) -> Result<String, Error> {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs());
    strftime(&format, seconds)
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// The date and time of `seconds` since 1970, in UTC.
fn strftime(format: &str, seconds: u64) -> Result<String, Error> {
    let (days, clock) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil_date(days);
    let (month_name, weekday) = (MONTHS[month as usize - 1], WEEKDAYS[((days + 4) % 7) as usize]);
    let mut text = String::new();
    let mut letters = format.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            text.push(letter);
            continue;
        }
        // Writing to a String does not fail.
        let _ = match letters.next() {
            Some('Y') => write!(text, "{year}"),
            Some('y') => write!(text, "{:02}", year % 100),
            Some('m') => write!(text, "{month:02}"),
            Some('d') => write!(text, "{day:02}"),
            Some('e') => write!(text, "{day:2}"),
            Some('H') => write!(text, "{:02}", clock / 3600),
            Some('M') => write!(text, "{:02}", clock / 60 % 60),
            Some('S') => write!(text, "{:02}", clock % 60),
            Some('B') => write!(text, "{month_name}"),
            Some('b') => write!(text, "{}", &month_name[..3]),
            Some('A') => write!(text, "{weekday}"),
            Some('a') => write!(text, "{}", &weekday[..3]),
            Some('%') => write!(text, "%"),
            other => {
                let message = format!("strftime_now does not know %{}", other.map_or(String::new(), String::from));
                return Err(Error::new(ErrorKind::InvalidOperation, message));
            }
        };
    }
    Ok(text)
}

/// Year, month and day of a day counted from 1970-01-01, by the usual count from March 1 of year 0.
fn civil_date(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_written_as_python_writes_them_in_utc() {
        let text = strftime("%A %a %d %e %B %b %Y %y %m %H:%M:%S %%", 1_709_210_096);
        assert_eq!(text.ok().as_deref(), Some("Thursday Thu 29 29 February Feb 2024 24 02 12:34:56 %"));
        assert_eq!(strftime("%d.%m.%Y", 0).ok().as_deref(), Some("01.01.1970"));
        assert!(strftime("%Q", 0).is_err());
    }
}
