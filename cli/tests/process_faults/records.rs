//! From the lines of `funk call --json` to a history.

use std::collections::BTreeMap;
use std::path::Path;

use funk_history::calls::{Call, Kind, Outcome};
use serde::Deserialize;
use serde_json::Value;

/// One line about one call.
#[derive(Deserialize)]
struct Record {
    start_us: u64,
    end_us: u64,
    key: String,
    op: String,
    id: Option<String>,
    owner: Option<String>,
    shard: Option<u32>,
    epoch: Option<u64>,
    value: Option<u64>,
    outcome: String,
    error: Option<String>,
}

/// Everything that one load printed.
pub(crate) struct Recording {
    pub(crate) calls: Vec<Call>,
    /// The shard of each counter that was answered.
    pub(crate) shards: BTreeMap<String, u32>,
    pub(crate) summary: Value,
}

/// Reads all lines; anything that is not as documented is an error that names the file and the line.
pub(crate) fn parse(lines: &[String], file: &Path) -> Result<Recording, String> {
    let mut calls = Vec::new();
    let mut shards = BTreeMap::new();
    let mut summary = None;
    for (number, line) in (1..).zip(lines) {
        let wrong = |why: String| format!("{}:{number}: {why}: {line}", file.display());
        let value: Value =
            serde_json::from_str(line).map_err(|error| wrong(format!("no JSON ({error})")))?;
        if summary.is_some() {
            return Err(wrong("a line after the summary".to_owned()));
        }
        if let Some(found) = value.get("summary") {
            summary = Some(found.clone());
            continue;
        }
        let record: Record = serde_json::from_value(value)
            .map_err(|error| wrong(format!("no record of a call ({error})")))?;
        if let Some(shard) = record.shard {
            shards.insert(record.key.clone(), shard);
        }
        calls.push(call(record).map_err(wrong)?);
    }
    let summary = summary.ok_or_else(|| format!("{}: there is no summary", file.display()))?;
    Ok(Recording {
        calls,
        shards,
        summary,
    })
}

/// Whether a line is about a call that was answered.
pub(crate) fn is_answer(line: &str) -> bool {
    serde_json::from_str::<Value>(line).is_ok_and(|value| value["outcome"] == "ok")
}

fn call(record: Record) -> Result<Call, String> {
    if record.end_us < record.start_us {
        return Err("it ended before it began".to_owned());
    }
    let error = record.error.unwrap_or_default();
    let outcome = match (
        record.outcome.as_str(),
        record.owner,
        record.epoch,
        record.value,
    ) {
        ("ok", Some(owner), Some(epoch), Some(value)) => Outcome::Answered {
            owner,
            epoch,
            value,
        },
        ("ambiguous", ..) => Outcome::Ambiguous(error),
        ("failed", ..) => Outcome::Failed(error),
        ("ok", ..) => return Err("an answer without owner, epoch or value".to_owned()),
        _ => return Err("an unknown outcome".to_owned()),
    };
    let kind = match record.op.as_str() {
        "get" => Kind::Get,
        "increment" => Kind::Increment,
        _ => return Err("an unknown operation".to_owned()),
    };
    Ok(Call {
        start: record.start_us,
        end: record.end_us,
        key: record.key,
        kind,
        id: record.id,
        outcome,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use funk_history::report::{BUDGET, Report};

    fn read(lines: &[&str]) -> Result<Recording, String> {
        let lines: Vec<_> = lines.iter().map(|line| (*line).to_owned()).collect();
        parse(&lines, Path::new("load.out"))
    }

    const GET: &str = r#"{"start_us":5,"end_us":9,"key":"a","op":"get","id":null,"owner":"n2","shard":4,"epoch":7,"value":1,"outcome":"ok","error":null,"attempts":1}"#;
    const LOST: &str = r#"{"start_us":1,"end_us":4,"key":"a","op":"increment","id":"x","owner":null,"shard":null,"epoch":null,"value":null,"outcome":"ambiguous","error":"the peer died","attempts":2}"#;
    const SUMMARY: &str = r#"{"summary":{"calls":2}}"#;

    #[test]
    fn records_become_calls() {
        let recording = read(&[LOST, GET, SUMMARY]).unwrap();
        assert_eq!(recording.summary["calls"], 2);
        assert_eq!(recording.shards, BTreeMap::from([("a".to_owned(), 4)]));
        assert_eq!(recording.calls[0].id.as_deref(), Some("x"));
        assert_eq!(
            recording.calls[0].outcome,
            Outcome::Ambiguous("the peer died".to_owned())
        );
        assert_eq!(recording.calls[1].answer(), Some((7, 1)));
        assert!(Report::new(&recording.calls, BUDGET).is_safe());
        assert!(is_answer(GET) && !is_answer(LOST) && !is_answer(SUMMARY));
    }

    #[test]
    fn lines_that_are_cut_or_make_no_sense_are_refused() {
        for (lines, expected) in [
            (&[GET][..], "no summary"),
            (&[&GET[..40], SUMMARY][..], "load.out:1: no JSON"),
            (&[SUMMARY, GET][..], "load.out:2: a line after"),
            (
                &[&GET.replace("\"ok\"", "\"fine\""), SUMMARY][..],
                "unknown outcome",
            ),
            (
                &[&GET.replace("h\":7", "h\":null"), SUMMARY][..],
                "without owner",
            ),
            (
                &[&GET.replace("\"get\"", "\"put\""), SUMMARY][..],
                "unknown operation",
            ),
            (&[&GET.replace(":9", ":4"), SUMMARY][..], "before it began"),
        ] {
            let error = read(lines).err().unwrap_or_default();
            assert!(error.contains(expected), "{expected} is not in {error:?}");
        }
    }
}
