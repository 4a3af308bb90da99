//! Which rows of a table are wanted, in which order, and which of their fields: the conditions of `list` and `count`.
//!
//! Values of all types have one order, so that a table with mixed ones sorts the same everywhere: null, booleans,
//! numbers (integers and floats by what they mean), texts, bytes, lists, maps.

use std::cmp::Ordering;
use std::str::FromStr;

use engine::value::Value;
use serde::{Deserialize, Serialize};

use super::json::{self, Json, RawFields};

/// Conditions, or keys of an order, in one request at most.
pub(crate) const CONDITIONS_MAX: usize = 64;

/// How a field is compared with a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Compare {
    Equal,
    Unequal,
    Less,
    AtMost,
    Greater,
    AtLeast,
    /// The field is a text in which the value occurs.
    Contains,
}

/// One condition on a field. A field that is not there meets none but `Unequal`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Condition {
    pub(crate) field: String,
    pub(crate) compare: Compare,
    pub(crate) value: Json,
}

/// A key of an order. Rows without the field come last either way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SortKey {
    pub(crate) field: String,
    pub(crate) descending: bool,
}

/// Longer operators stand before those that they begin with.
const OPERATORS: [(&str, Compare); 7] = [
    ("!=", Compare::Unequal),
    ("<=", Compare::AtMost),
    (">=", Compare::AtLeast),
    ("=", Compare::Equal),
    ("<", Compare::Less),
    (">", Compare::Greater),
    ("~", Compare::Contains),
];

impl FromStr for Condition {
    type Err = String;

    fn from_str(text: &str) -> Result<Condition, String> {
        let at = text.find(['=', '!', '<', '>', '~']).filter(|at| *at > 0);
        let found = at.and_then(|at| {
            let (field, rest) = text.split_at(at);
            OPERATORS.iter().find_map(|(sign, compare)| Some((field, *compare, rest.strip_prefix(sign)?)))
        });
        let Some((field, compare, value)) = found else {
            return Err("as in: done=false, age>=18, name~ann; the operators are = != < <= > >= ~".to_owned());
        };
        let value = match json::parse_value(value) {
            Ok(read) if compare != Compare::Contains => read,
            _ => Value::Text(value.to_owned()),
        };
        Ok(Condition { field: field.to_owned(), compare, value: Json(value) })
    }
}

impl FromStr for SortKey {
    type Err = String;

    fn from_str(text: &str) -> Result<SortKey, String> {
        let (field, descending) = text.strip_prefix('-').map_or((text, false), |field| (field, true));
        if field.is_empty() {
            return Err("as in: --sort title, --sort -age,title".to_owned());
        }
        Ok(SortKey { field: field.to_owned(), descending })
    }
}

impl Condition {
    pub(crate) fn met_by(&self, fields: &RawFields) -> bool {
        let Some(value) = fields.get(&self.field) else { return self.compare == Compare::Unequal };
        let wanted = &self.value.0;
        if self.compare == Compare::Contains {
            return matches!((value, wanted), (Value::Text(text), Value::Text(part)) if text.contains(part.as_str()));
        }
        let order = compare(value, wanted);
        match self.compare {
            Compare::Equal => order.is_eq(),
            Compare::Unequal => order.is_ne(),
            // Only like can be less or greater than like: no text is greater than 3.
            _ if rank(value) != rank(wanted) => false,
            Compare::Less => order.is_lt(),
            Compare::AtMost => order.is_le(),
            Compare::Greater => order.is_gt(),
            Compare::AtLeast | Compare::Contains => order.is_ge(),
        }
    }
}

/// The order of two rows under the keys; equal ones keep the order of their row keys.
pub(crate) fn order(keys: &[SortKey], a: &RawFields, b: &RawFields) -> Ordering {
    let by = |key: &SortKey| match (a.get(&key.field), b.get(&key.field)) {
        (Some(a), Some(b)) if key.descending => compare(b, a),
        (Some(a), Some(b)) => compare(a, b),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => Ordering::Equal,
    };
    keys.iter().map(by).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
}

fn rank(value: &Value) -> u8 {
    match value {
        Value::Null => 0,
        Value::Bool(_) => 1,
        Value::Int(_) | Value::Float(_) => 2,
        Value::Text(_) => 3,
        Value::Bytes(_) => 4,
        Value::List(_) => 5,
        Value::Map(_) => 6,
    }
}

/// The total order of values.
fn compare(a: &Value, b: &Value) -> Ordering {
    match (a, b) {
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::Int(a), Value::Int(b)) => a.cmp(b),
        // 0.0 and -0.0 mean the same number; an unusual NaN has a place of its own.
        (Value::Float(a), Value::Float(b)) => a.partial_cmp(b).unwrap_or_else(|| a.total_cmp(b)),
        (Value::Int(a), Value::Float(b)) => int_with_float(*a, *b),
        (Value::Float(a), Value::Int(b)) => int_with_float(*b, *a).reverse(),
        (Value::Text(a), Value::Text(b)) => a.cmp(b),
        (Value::Bytes(a), Value::Bytes(b)) => a.cmp(b),
        (Value::List(a), Value::List(b)) => {
            let pairs = a.iter().zip(b).map(|(a, b)| compare(a, b));
            pairs.into_iter().find(|order| order.is_ne()).unwrap_or_else(|| a.len().cmp(&b.len()))
        }
        (Value::Map(a), Value::Map(b)) => {
            let pairs = a.iter().zip(b).map(|((k, v), (l, w))| k.cmp(l).then_with(|| compare(v, w)));
            pairs.into_iter().find(|order| order.is_ne()).unwrap_or_else(|| a.len().cmp(&b.len()))
        }
        _ => rank(a).cmp(&rank(b)),
    }
}

/// Exact, also where a float cannot hold the integer.
fn int_with_float(int: i64, float: f64) -> Ordering {
    const BEYOND: f64 = 9_223_372_036_854_775_808.0;
    if float.is_nan() {
        return if float.is_sign_negative() { Ordering::Greater } else { Ordering::Less };
    }
    if float >= BEYOND {
        return Ordering::Less;
    }
    if float < -BEYOND {
        return Ordering::Greater;
    }
    // Truncated it fits; what was cut off decides between equals.
    let whole = float.trunc();
    int.cmp(&(whole as i64)).then_with(|| whole.partial_cmp(&float).unwrap_or(Ordering::Equal))
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::testing::any_value;
    use proptest::prelude::*;

    fn met(condition: &str, fields: &str) -> bool {
        let condition: Condition = condition.parse().expect("a condition");
        condition.met_by(&json::parse_fields(fields).expect("fields"))
    }

    #[test]
    fn conditions_mean_what_they_say() {
        let row = r#"{"n":3,"x":2.5,"t":"Buy tea","done":false,"none":null}"#;
        for condition in [
            "n=3",
            "n=3.0",
            "n>2.9",
            "n<=3",
            "x<3",
            "t=Buy tea",
            "t~tea",
            "done=false",
            "none=null",
            "n!=4",
            "no!=1",
        ] {
            assert!(met(condition, row), "{condition}");
        }
        for condition in
            ["n=4", "n>3", "n<3", "n=\"3\"", "t>3", "t<3", "t~Tea", "no=1", "no=null", "done!=false", "n~3"]
        {
            assert!(!met(condition, row), "{condition}");
        }
        for text in ["", "n", "=3", "n!3", "n"] {
            assert!(text.parse::<Condition>().is_err(), "{text}");
        }
    }

    #[test]
    fn integers_and_floats_compare_exactly() {
        let max = i64::MAX;
        assert_eq!(int_with_float(max, max as f64), Ordering::Less, "the float is one more");
        assert_eq!(int_with_float(i64::MIN, i64::MIN as f64), Ordering::Equal);
        assert_eq!(int_with_float(-2, -2.5), Ordering::Greater);
        assert_eq!(int_with_float(2, 2.5), Ordering::Less);
        assert_eq!(int_with_float(0, f64::NEG_INFINITY), Ordering::Greater);
    }

    proptest! {
        #[test]
        fn the_order_of_values_is_total(a in any_value(), b in any_value(), c in any_value()) {
            prop_assert_eq!(compare(&a, &b), compare(&b, &a).reverse());
            prop_assert!(compare(&a, &a).is_eq());
            let mut values = [a, b, c];
            values.sort_by(compare);
            prop_assert!(compare(&values[0], &values[2]).is_le());
        }
    }
}
