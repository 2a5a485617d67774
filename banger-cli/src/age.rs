//! How long ago something was.

use jiff::Timestamp;

/// The time since `then` (RFC 3339) in its largest unit: `42s`, `5m`, `3h`, `12d`; `?` if that is no
/// time. A clock that was set back makes it `0s`.
pub(crate) fn since(then: &str, now: Timestamp) -> String {
    let Ok(then) = then.parse::<Timestamp>() else {
        return "?".to_owned();
    };
    let seconds = now.duration_since(then).as_secs().max(0);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// A time (RFC 3339) without its fractions of a second, which nobody reads.
pub(crate) fn to_the_second(time: &str) -> String {
    match time.parse::<Timestamp>() {
        Ok(time) => format!("{time:.0}"),
        Err(_) => time.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_in_its_largest_unit() {
        let now: Timestamp = "2030-01-31T12:00:00Z".parse().unwrap();
        for (then, age) in [
            ("2030-01-31T12:00:00.5Z", "0s"),
            ("2030-01-31T13:00:00Z", "0s"),
            ("2030-01-31T11:59:18Z", "42s"),
            ("2030-01-31T11:00:01Z", "59m"),
            ("2030-01-31T11:00:00Z", "1h"),
            ("2030-01-19T11:00:00Z", "12d"),
            ("yesterday", "?"),
        ] {
            assert_eq!(since(then, now), age, "{then}");
        }
    }

    #[test]
    fn a_time_is_shown_to_the_second() {
        assert_eq!(
            to_the_second("2030-01-31T12:00:00.999Z"),
            "2030-01-31T12:00:00Z"
        );
        assert_eq!(to_the_second("soon"), "soon");
    }
}
