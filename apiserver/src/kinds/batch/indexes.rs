//! Lists of completion indexes such as `1,3-5,7`.

/// The indexes of one interval, both ends included.
pub type Interval = (i64, i64);

/// The intervals of the text, or what is wrong with it; indexes are below `completions` and increase.
pub fn parse(text: &str, completions: i64) -> Result<Vec<Interval>, String> {
    let mut intervals: Vec<Interval> = Vec::new();
    if text.is_empty() {
        return Ok(intervals);
    }
    for part in text.split(',') {
        let (first, last) = interval(part, completions)?;
        if let Some((_, previous)) = intervals.last().filter(|(_, previous)| *previous >= first) {
            return Err(format!("non-increasing order, previous: {previous}, current: {first}"));
        }
        intervals.push((first, last));
    }
    Ok(intervals)
}

/// How many indexes the intervals hold.
pub fn count(intervals: &[Interval]) -> i64 {
    intervals.iter().map(|(first, last)| last - first + 1).sum()
}

/// The first index both lists hold.
pub fn overlap(completed: &[Interval], failed: &[Interval]) -> Option<i64> {
    let pairs = completed.iter().flat_map(|done| failed.iter().map(move |lost| (done, lost)));
    pairs
        .filter(|(done, lost)| done.0 <= lost.1 && lost.0 <= done.1)
        .map(|(done, lost)| done.0.max(lost.0))
        .min()
}

fn interval(part: &str, completions: i64) -> Result<Interval, String> {
    let quote = machinery::gotext::quote;
    let limits: Vec<&str> = part.split('-').collect();
    let number = |text: &str| {
        let number: i64 = text
            .parse()
            .map_err(|_| format!("cannot convert string to integer for index: {}", quote(text)))?;
        if number >= completions { Err(format!("too large index: {}", quote(text))) } else { Ok(number) }
    };
    match limits.as_slice() {
        [one] => number(one).map(|index| (index, index)),
        [first, last] => {
            let (first, last) = (number(first)?, number(last)?);
            if first >= last {
                return Err(format!("non-increasing order, previous: {first}, current: {last}"));
            }
            Ok((first, last))
        }
        _ => Err(format!(
            "the fragment {} violates the requirement that an index interval can have at most two parts separated by '-'",
            quote(part)
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        let check = |text: &str, expected: Result<i64, &str>| {
            assert_eq!(
                parse(text, 10).map(|i| count(&i)).as_ref().map_err(String::as_str),
                expected.as_ref().map_err(|e| *e),
                "{text}"
            );
        };
        check("", Ok(0));
        check("1,3-5", Ok(4));
        check("5,3", Err("non-increasing order, previous: 5, current: 3"));
        check("10", Err(r#"too large index: "10""#));
        check("x", Err(r#"cannot convert string to integer for index: "x""#));
        assert_eq!(overlap(&[(1, 1), (3, 5)], &[(5, 7)]), Some(5));
        assert_eq!(overlap(&[(1, 1)], &[(5, 7)]), None);
    }
}
