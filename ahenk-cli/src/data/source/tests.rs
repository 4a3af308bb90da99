//! The readers, over good, bad and hostile input: what they accept, what they pass over and say, and what bounds them.

use std::io::{BufReader, Cursor};

use engine::value::Value;
use proptest::prelude::*;

use super::*;

fn layout(delimiter: u8) -> Layout {
    Layout { delimiter, quotes: true, ..Layout::default() }
}

/// All records, each as its line and its fields as JSON or its reason, and the error at the end if there is one.
fn read_with(format: Format, layout: Layout, bytes: &[u8]) -> (Vec<(u64, String)>, Option<String>) {
    // A small buffer, so that its borders fall everywhere.
    let reader = BufReader::with_capacity(7, Cursor::new(bytes.to_vec()));
    let mut records = Vec::new();
    let mut source = match Source::open(Box::new(reader), format, layout) {
        Ok(source) => source,
        Err(error) => return (records, Some(error.to_string())),
    };
    loop {
        match source.next() {
            Ok(Some(Record { line, content })) => records.push((line, shown(content))),
            Ok(None) => return (records, None),
            Err(error) => return (records, Some(error.to_string())),
        }
    }
}

fn shown(content: Result<Content, Unusable>) -> String {
    let fields = match content {
        Ok(Content::Fields(fields)) => Ok(fields),
        Ok(Content::Json(text)) => crate::data::json::parse_fields(&text).map_err(Unusable::from),
        Err(reason) => Err(reason),
    };
    match fields {
        Ok(fields) => serde_json::to_string(&crate::data::json::JsonFields(fields)).expect("writes"),
        Err(reason) => reason.to_string(),
    }
}

fn read(format: Format, text: &str) -> (Vec<(u64, String)>, Option<String>) {
    read_with(format, layout(if format == Format::Tsv { b'\t' } else { b',' }), text.as_bytes())
}

fn lines(records: &[(u64, String)]) -> Vec<u64> {
    records.iter().map(|(line, _)| *line).collect()
}

#[test]
fn an_array_comes_out_element_by_element() {
    let text = "\u{feff} [ {\"a\":[1,{\"b\":\"],}\\\"\"}]},\n\n{\"a\":2}\n, {} ]\n";
    let (records, error) = read(Format::Json, text);
    let found: Vec<&str> = records.iter().map(|(_, fields)| fields.as_str()).collect();
    assert_eq!(found, ["{\"a\":[1,{\"b\":\"],}\\\"\"}]}", "{\"a\":2}", "{}"]);
    assert_eq!((lines(&records), error), (vec![1, 3, 4], None));
    assert_eq!(read(Format::Json, "[ ]"), (vec![], None));
    assert_eq!(read(Format::Json, " \n"), (vec![], None));
}

#[test]
fn a_bad_element_of_an_array_does_not_spoil_the_next() {
    let text = "[{\"a\":1},\n{\"a\" 1},\n5,\n{\"a\":1,\"a\":2},\n,\n{\"a\":},\n{\"b\":2},\n]";
    let (records, error) = read(Format::Json, text);
    assert_eq!((lines(&records), error), (vec![1, 2, 3, 4, 5, 6, 7, 8], None));
    assert_eq!((records[0].1.as_str(), records[6].1.as_str()), ("{\"a\":1}", "{\"b\":2}"));
    assert!(records[3].1.contains("twice"));
    assert!(records[4].1.contains("between commas") && records[7].1.contains("between commas"));
}

#[test]
fn every_truncation_of_an_array_is_noticed_and_keeps_what_was_whole() {
    let text = "[{\"a\":\"x,y\"},\n{\"a\":[2]}]";
    for end in 1..text.len() {
        let (records, error) = read(Format::Json, &text[..end]);
        assert!(error.is_some_and(|error| error.contains("ends within the record")), "{}", &text[..end]);
        assert_eq!(records.len(), usize::from(end > text.find('\n').expect("two lines") - 1));
    }
    let (_, error) = read(Format::Json, "[{}]\nx");
    assert!(error.is_some_and(|error| error.contains("follows the end of the array in line 2")));
}

#[test]
fn lines_are_read_one_by_one_whatever_is_wrong_with_others() {
    let mut bytes = b"{\"a\":1}\r\n\n{\"a\":\n{\"a\":\"\xff\"}\n".to_vec();
    bytes.extend(b"{\"a\":\"".iter().chain(&vec![b'x'; RECORD_BYTES_MAX]).chain(b"\"}\n"));
    bytes.extend(b"{\"a\":18446744073709551616}\n  {\"b\":2}");
    let (records, error) = read_with(Format::Jsonl, layout(b','), &bytes);
    assert_eq!((lines(&records), error), (vec![1, 3, 4, 5, 6, 7], None));
    assert_eq!((records[0].1.as_str(), records[5].1.as_str()), ("{\"a\":1}", "{\"b\":2}"));
    assert!(records[1].1.contains("EOF"));
    assert_eq!(records[2].1, "not valid UTF-8");
    assert_eq!(records[3].1, "longer than 8 MiB");
    assert!(records[4].1.contains("does not fit 64 bits"));
}

#[test]
fn an_enormous_element_is_passed_over_without_being_kept() {
    let mut bytes = b"[{\"a\":1},\n{\"a\":\"".to_vec();
    bytes.extend(vec![b','; RECORD_BYTES_MAX + 9]);
    bytes.extend(b"\"},\n{\"a\":3}]");
    let (records, error) = read_with(Format::Json, layout(b','), &bytes);
    assert_eq!(error, None);
    assert_eq!(records[1..], [(2, "longer than 8 MiB".to_owned()), (3, "{\"a\":3}".to_owned())]);
}

#[test]
fn columns_take_their_names_from_the_first_record() {
    let text = "\u{feff}id, name ,note\r\n1,\"a, \"\"b\"\"\nc\",x\n\n2,plain\n3,a,b,c\n";
    let (records, error) = read(Format::Csv, text);
    assert_eq!((lines(&records), error), (vec![2, 5, 6], None));
    assert_eq!(records[0].1, r#"{"id":"1","name":"a, \"b\"\nc","note":"x"}"#);
    assert_eq!(records[1].1, r#"{"id":"2","name":"plain"}"#);
    assert_eq!(records[2].1, "4 cells, but only 3 columns have names");
    assert_eq!(read(Format::Tsv, "a\tb\n1\t2").0, [(2, r#"{"a":"1","b":"2"}"#.to_owned())]);
}

#[test]
fn columns_can_be_named_or_numbered() {
    let columns = Some(vec!["code".to_owned(), "name".to_owned()]);
    let named = Layout { columns, comment: Some(b'#'), ..layout(b';') };
    let (records, error) = read_with(Format::Csv, named, b"# one; \"\n0041;A\n#;\n0042;B");
    assert_eq!(error, None);
    assert_eq!(
        records,
        [(2, r#"{"code":"0041","name":"A"}"#.to_owned()), (4, r#"{"code":"0042","name":"B"}"#.to_owned())]
    );
    let numbered = Layout { no_header: true, ..layout(b',') };
    let (records, _) = read_with(Format::Csv, numbered, b"a,b");
    assert_eq!(records, [(1, r#"{"column1":"a","column2":"b"}"#.to_owned())]);
}

#[test]
fn names_of_columns_are_checked() {
    for (text, says) in [("a,b,a\n", "two columns"), ("a,,b\n", "column 2"), ("a\x07,b\n", "control")] {
        let (records, error) = read(Format::Csv, text);
        assert!(records.is_empty() && error.is_some_and(|error| error.contains(says)), "{text:?}");
    }
    assert!(read_with(Format::Csv, layout(b','), b"a,\xff\n").1.is_some_and(|error| error.contains("UTF-8")));
}

#[test]
fn an_open_quote_is_an_error_and_not_the_rest_of_the_file() {
    let (records, error) = read(Format::Csv, "a,b\n1,2\n3,\"4\n5,6\n");
    assert_eq!(records.len(), 1);
    assert_eq!(error.as_deref(), Some("the quote that opens in line 3 is never closed"));
    let plain = Layout { quotes: false, ..layout(b',') };
    let (records, error) = read_with(Format::Csv, plain, b"a,b\n1,2\n3,\"4\n5,6\n");
    assert_eq!((records.len(), error), (3, None));
}

#[test]
fn bad_text_and_enormous_records_between_delimiters_are_skipped() {
    let mut bytes = b"a,b\n1,\xff\n2,\"".to_vec();
    bytes.extend(vec![b'\n'; RECORD_BYTES_MAX + 1]);
    bytes.extend(b"\",,,\n3,ok\n");
    let (records, error) = read_with(Format::Csv, layout(b','), &bytes);
    assert_eq!(error, None);
    assert_eq!(
        records.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>(),
        ["not valid UTF-8", "longer than 8 MiB", r#"{"a":"3","b":"ok"}"#]
    );
}

#[test]
fn only_plain_spellings_become_numbers() {
    let typed = Layout { typed: true, no_header: true, ..layout(b',') };
    let text = "1,-7,007,+1,1.50,-0.5,.5,1e5,true,TRUE,,99999999999999999999,-0,NaN,01.5";
    let (records, _) = read_with(Format::Csv, typed, text.as_bytes());
    let fields = crate::data::json::parse_fields(&records[0].1).expect("reads");
    let value = |column: usize| fields[&format!("column{column}")].clone();
    let expected = [
        Value::Int(1),
        Value::Int(-7),
        "007".into(),
        "+1".into(),
        Value::Float(1.5),
        Value::Float(-0.5),
        ".5".into(),
        "1e5".into(),
        Value::Bool(true),
        "TRUE".into(),
        "".into(),
        "99999999999999999999".into(),
        "-0".into(),
        "NaN".into(),
        "01.5".into(),
    ];
    for (index, expected) in expected.into_iter().enumerate() {
        assert_eq!(value(index + 1), expected);
    }
}

#[test]
fn the_format_follows_from_content_and_name() {
    let list = [
        ("a.json", Some(b'['), Format::Json),
        ("a.json", Some(b'{'), Format::Jsonl),
        ("a.txt", Some(b'['), Format::Json),
        ("-", Some(b'{'), Format::Jsonl),
        ("a.ndjson", Some(b'x'), Format::Jsonl),
        ("a.CSV", Some(b'['), Format::Csv),
        ("zone1970.tab", Some(b'#'), Format::Tsv),
        ("data", Some(b'1'), Format::Csv),
        ("a.json", None, Format::Json),
    ];
    for (name, first, format) in list {
        assert_eq!(detect(name, first), format, "{name}");
    }
}

proptest! {
    #[test]
    fn columns_read_as_the_csv_crate_reads_them(text in "[ab\",\r\n é]{0,40}") {
        let mut reference = csv::ReaderBuilder::new();
        let mut reference = reference.has_headers(false).flexible(true).from_reader(text.as_bytes());
        let expected: Vec<Vec<String>> = reference
            .records()
            .map(|record| record.expect("text").iter().map(str::to_owned).collect())
            .collect();
        let numbered = Layout { no_header: true, ..layout(b',') };
        let (records, error) = read_with(Format::Csv, numbered, text.as_bytes());
        // Where a quote stays open we stop, and the crate reads on.
        let ours: Vec<Vec<String>> = records
            .iter()
            .map(|(_, fields)| {
                let fields = crate::data::json::parse_fields(fields).expect("reads");
                (1..=fields.len())
                    .map(|n| match &fields[&format!("column{n}")] {
                        Value::Text(text) => text.clone(),
                        other => panic!("not text: {other:?}"),
                    })
                    .collect()
            })
            .collect();
        let compared = if error.is_some() { ours.len() } else { expected.len() };
        prop_assert_eq!(ours, expected.into_iter().take(compared).collect::<Vec<_>>());
    }

    #[test]
    fn no_bytes_make_a_reader_panic_or_run_on(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        for format in [Format::Json, Format::Jsonl, Format::Csv, Format::Tsv] {
            let (records, _) = read_with(format, layout(b','), &bytes);
            prop_assert!(records.len() <= bytes.len());
        }
    }
}
