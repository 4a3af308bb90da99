//! The fields that an operation writes: few, and there are as many of these lists as operations, so they are kept in a
//! sorted list of exactly their size, and not in a tree, whose smallest node has room for eleven.
//!
//! Invariant: names ascend strictly.

use std::borrow::Borrow;
use std::collections::BTreeMap;

use crate::name::FieldName;
use crate::value::Value;

/// Values by the names of their fields, ascending.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FieldValues(Vec<(FieldName, Value)>);

impl FieldValues {
    /// None.
    pub fn new() -> FieldValues {
        FieldValues::default()
    }

    /// None yet, with room for so many.
    pub(crate) fn with_capacity(count: usize) -> FieldValues {
        FieldValues(Vec::with_capacity(count))
    }

    /// Adds a field whose name comes after all others.
    pub(crate) fn push(&mut self, name: FieldName, value: Value) {
        debug_assert!(self.0.last().is_none_or(|(last, _)| *last < name));
        self.0.push((name, value));
    }

    /// The last name.
    pub(crate) fn last(&self) -> Option<&FieldName> {
        self.0.last().map(|(name, _)| name)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes all away.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    fn place<Q: Ord + ?Sized>(&self, name: &Q) -> Result<usize, usize>
    where
        FieldName: Borrow<Q>,
    {
        self.0.binary_search_by(|(other, _)| other.borrow().cmp(name))
    }

    /// The value of a field.
    pub fn get<Q: Ord + ?Sized>(&self, name: &Q) -> Option<&Value>
    where
        FieldName: Borrow<Q>,
    {
        self.place(name).ok().and_then(|place| self.0.get(place)).map(|(_, value)| value)
    }

    /// Whether a field is written.
    pub fn contains_key<Q: Ord + ?Sized>(&self, name: &Q) -> bool
    where
        FieldName: Borrow<Q>,
    {
        self.place(name).is_ok()
    }

    /// Writes a field. Gives the value that it was to have before.
    pub fn insert(&mut self, name: FieldName, value: Value) -> Option<Value> {
        match self.place(&name) {
            Ok(place) => Some(std::mem::replace(&mut self.0[place].1, value)),
            Err(place) => {
                self.0.insert(place, (name, value));
                None
            }
        }
    }

    /// Takes a field away, and gives its value.
    pub fn remove<Q: Ord + ?Sized>(&mut self, name: &Q) -> Option<Value>
    where
        FieldName: Borrow<Q>,
    {
        self.place(name).ok().map(|place| self.0.remove(place).1)
    }

    /// Names and values, ascending by name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&FieldName, &Value)> + DoubleEndedIterator + Clone {
        self.0.iter().map(|(name, value)| (name, value))
    }

    /// The names, ascending.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = &FieldName> + DoubleEndedIterator + Clone {
        self.0.iter().map(|(name, _)| name)
    }

    /// The values, ascending by the names of their fields.
    pub fn values(&self) -> impl ExactSizeIterator<Item = &Value> + DoubleEndedIterator + Clone {
        self.0.iter().map(|(_, value)| value)
    }
}

impl Extend<(FieldName, Value)> for FieldValues {
    fn extend<I: IntoIterator<Item = (FieldName, Value)>>(&mut self, fields: I) {
        for (name, value) in fields {
            // Nearly always they come in order.
            match self.0.last() {
                Some((last, _)) if *last >= name => drop(self.insert(name, value)),
                _ => self.0.push((name, value)),
            }
        }
    }
}

impl FromIterator<(FieldName, Value)> for FieldValues {
    /// Of several values of one field the last stays.
    fn from_iter<I: IntoIterator<Item = (FieldName, Value)>>(fields: I) -> FieldValues {
        let mut made = FieldValues::new();
        made.extend(fields);
        made
    }
}

impl From<BTreeMap<FieldName, Value>> for FieldValues {
    fn from(fields: BTreeMap<FieldName, Value>) -> FieldValues {
        FieldValues(fields.into_iter().collect())
    }
}

impl<const N: usize> From<[(FieldName, Value); N]> for FieldValues {
    fn from(fields: [(FieldName, Value); N]) -> FieldValues {
        fields.into_iter().collect()
    }
}

impl IntoIterator for FieldValues {
    type Item = (FieldName, Value);
    type IntoIter = std::vec::IntoIter<(FieldName, Value)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a FieldValues {
    type Item = (&'a FieldName, &'a Value);
    type IntoIter = std::iter::Map<
        std::slice::Iter<'a, (FieldName, Value)>,
        fn(&'a (FieldName, Value)) -> (&'a FieldName, &'a Value),
    >;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter().map(|(name, value)| (name, value))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn fields_are_the_map_of_what_was_written_last(
            steps in proptest::collection::vec(("[a-e]", any::<i64>(), any::<bool>()), 0..20),
        ) {
            let (mut fields, mut model) = (FieldValues::new(), BTreeMap::new());
            for (name, number, one) in steps {
                let (name, value) = (FieldName::new(&name).expect("a name"), Value::Int(number));
                let before = model.insert(name.clone(), value.clone());
                if one {
                    prop_assert_eq!(fields.insert(name, value), before);
                } else {
                    fields.extend([(name, value)]);
                }
                prop_assert!(fields.iter().eq(model.iter()));
                prop_assert_eq!(fields.last(), model.keys().next_back());
                prop_assert!((&fields).into_iter().eq(model.iter()));
            }
            prop_assert!(fields.keys().eq(model.keys()) && fields.values().eq(model.values()));
            for name in ["a", "b", "c", "d", "e", "f"] {
                prop_assert_eq!(fields.get(name), model.get(name));
                prop_assert_eq!(fields.contains_key(name), model.contains_key(name));
            }
            prop_assert!(fields.clone().into_iter().eq(model.clone()));
            prop_assert_eq!(&FieldValues::from(model.clone()), &fields);
            let mut fewer = fields.clone();
            prop_assert_eq!(fewer.remove("b"), model.remove("b"));
            prop_assert!(fewer.iter().eq(model.iter()));
            prop_assert_eq!(fields.iter().map(|(n, v)| (n.clone(), v.clone())).collect::<FieldValues>(), fields);
        }
    }
}
