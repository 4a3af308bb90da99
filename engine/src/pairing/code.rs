//! The code that people carry from one device to the other, and its long form with addresses.
//!
//! Invariants: a [`PairingCode`] in memory is well formed, is wiped when dropped, and is never
//! printed by `Debug`; it has no `Display`, so it cannot slip into a log line by accident. Errors
//! name the place of a mistake and never repeat what was typed.

use std::fmt;

use bip39::Language;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::{ADDRESS_BYTES_MAX, ADDRESSES_MAX, address_ok};

/// How many words follow the nameplate.
pub(super) const WORDS: usize = 3;
/// Longest text that is looked at as a code, in bytes.
const CODE_BYTES_MAX: usize = 128;
/// Nameplates are two digits without a leading zero, so that they are typed one way only.
const NAMEPLATES: std::ops::RangeInclusive<u8> = 10..=99;

/// A pairing code, `NN-word-word-word`. The two digits are the nameplate: not secret, they let a
/// joiner find the right offer without spending an attempt. The three words of the BIP 39 English
/// list are the secret, 33 bits: plenty where a guess costs one of a few attempts.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct PairingCode {
    nameplate: u8,
    /// Places in the word list, below 2048.
    words: [u16; WORDS],
}

/// Why a text is not a pairing code or invitation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodeError {
    /// Longer than any code.
    #[error("this is too long for a pairing code")]
    TooLong,
    /// It does not begin with two digits.
    #[error("a pairing code begins with two digits from 10 to 99, as in 42-word-word-word")]
    NoNameplate,
    /// Not three words after the digits.
    #[error("a pairing code has three words after its two digits, this one has {found}")]
    WordCount {
        /// How many there are.
        found: usize,
    },
    /// A word that is not in the list.
    #[error("word {place} of the code is not one that a code can have; check its spelling")]
    UnknownWord {
        /// Which word, from 1.
        place: usize,
    },
    /// An abbreviation that fits several words.
    #[error("word {place} of the code is cut too short; type at least its first four letters")]
    AmbiguousWord {
        /// Which word, from 1.
        place: usize,
    },
    /// More addresses than an invitation may have.
    #[error("an invitation has at most {ADDRESSES_MAX} addresses")]
    TooManyAddresses,
    /// An address that is empty, too long, or has characters that no address has.
    #[error(
        "address {place} after the @ is not 1 to {ADDRESS_BYTES_MAX} visible characters without a comma or space"
    )]
    BadAddress {
        /// Which address, from 1.
        place: usize,
    },
}

impl PairingCode {
    /// Makes a code from 32 secret random bytes.
    pub fn generate(seed: &[u8; 32]) -> PairingCode {
        let bytes = Zeroizing::new(blake3::derive_key("ahenk pairing code 1", seed));
        // 11 bits a word, each exactly uniform. The nameplate's slight bias is of no matter: it is not secret.
        let word = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]) & 0x7ff;
        let spread = u16::from(NAMEPLATES.end() - NAMEPLATES.start()) + 1;
        let offset = u16::from_le_bytes([bytes[6], bytes[7]]) % spread;
        PairingCode {
            // Below 90 by the remainder, so it fits.
            nameplate: NAMEPLATES.start() + offset as u8,
            words: [word(0), word(2), word(4)],
        }
    }

    /// Reads a code as people type it: any case, spaces or hyphens or both between the parts, words
    /// in full or cut to a prefix that fits no other word (four letters always suffice).
    pub fn parse(text: &str) -> Result<PairingCode, CodeError> {
        if text.len() > CODE_BYTES_MAX {
            return Err(CodeError::TooLong);
        }
        let text = Zeroizing::new(text.to_lowercase());
        let mut parts = text
            .split(|c: char| c.is_whitespace() || matches!(c, '-' | '_' | '\u{2010}'..='\u{2015}'))
            .filter(|part| !part.is_empty());
        let nameplate = parts
            .next()
            .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|digits| digits.parse().ok())
            .filter(|number| NAMEPLATES.contains(number))
            .ok_or(CodeError::NoNameplate)?;
        let found = parts.clone().count();
        if found != WORDS {
            return Err(CodeError::WordCount { found });
        }
        let mut code = PairingCode { nameplate, words: [0; WORDS] };
        for (at, (slot, part)) in code.words.iter_mut().zip(parts).enumerate() {
            *slot = find_word(part, at + 1)?;
        }
        Ok(code)
    }

    /// The two digits that name the offer. Not secret.
    pub fn nameplate(&self) -> u8 {
        self.nameplate
    }

    /// The code as people read it. Secret: show it to the user and nowhere else.
    pub fn reveal(&self) -> Zeroizing<String> {
        // Reserved in full, so that no piece is left behind by growing: 2 + 3 * (1 + 8) bytes.
        let mut text = String::with_capacity(32);
        text.push(char::from(b'0' + self.nameplate / 10));
        text.push(char::from(b'0' + self.nameplate % 10));
        for word in self.words {
            text.push('-');
            text.push_str(Language::English.word_list()[usize::from(word)]);
        }
        Zeroizing::new(text)
    }
}

/// The place in the list of a word, or of the only word that begins so.
fn find_word(part: &str, place: usize) -> Result<u16, CodeError> {
    if let Some(word) = Language::English.find_word(part) {
        return Ok(word);
    }
    let mut words = Language::English.words_by_prefix_iter(part);
    match (words.next(), words.next()) {
        (Some(word), None) => Language::English.find_word(word).ok_or(CodeError::UnknownWord { place }),
        (Some(_), Some(_)) => Err(CodeError::AmbiguousWord { place }),
        (None, _) => Err(CodeError::UnknownWord { place }),
    }
}

impl fmt::Debug for PairingCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PairingCode({}-…)", self.nameplate)
    }
}

/// What the inviter shows: a code and, in the long form, where to reach the inviter when it cannot
/// be discovered. Written `CODE` or `CODE@ADDRESS[,ADDRESS…]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invitation {
    code: PairingCode,
    addresses: Vec<String>,
}

impl Invitation {
    /// Joins a code and at most [`ADDRESSES_MAX`] addresses.
    pub fn new(code: PairingCode, addresses: Vec<String>) -> Result<Invitation, CodeError> {
        if addresses.len() > ADDRESSES_MAX {
            return Err(CodeError::TooManyAddresses);
        }
        if let Some(at) = addresses.iter().position(|address| !address_ok(address)) {
            return Err(CodeError::BadAddress { place: at + 1 });
        }
        Ok(Invitation { code, addresses })
    }

    /// Reads either form.
    pub fn parse(text: &str) -> Result<Invitation, CodeError> {
        if text.len() > CODE_BYTES_MAX + ADDRESSES_MAX * (ADDRESS_BYTES_MAX + 2) {
            return Err(CodeError::TooLong);
        }
        // A code has no @, so the first one ends it; an address may have more of them.
        let Some((code, rest)) = text.split_once('@') else {
            return Invitation::new(PairingCode::parse(text)?, Vec::new());
        };
        let addresses = rest.split(',').map(|address| address.trim().to_owned()).collect();
        Invitation::new(PairingCode::parse(code)?, addresses)
    }

    /// The code.
    pub fn code(&self) -> &PairingCode {
        &self.code
    }

    /// The inviter's addresses in the transport's notation; none in the short form.
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// The invitation as text. Secret, as [`PairingCode::reveal`].
    pub fn reveal(&self) -> Zeroizing<String> {
        let code = self.code.reveal();
        let bytes = code.len() + self.addresses.iter().map(|address| address.len() + 1).sum::<usize>();
        let mut text = Zeroizing::new(String::with_capacity(bytes));
        text.push_str(&code);
        for (at, address) in self.addresses.iter().enumerate() {
            text.push(if at == 0 { '@' } else { ',' });
            text.push_str(address);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> PairingCode {
        PairingCode::parse("42-abandon-zoo-legal").expect("valid")
    }

    #[test]
    fn a_generated_code_reads_back_and_seeds_differ() {
        let mut seen = std::collections::BTreeSet::new();
        for n in 0..200u8 {
            let code = PairingCode::generate(&[n; 32]);
            assert!(NAMEPLATES.contains(&code.nameplate()));
            assert_eq!(PairingCode::parse(&code.reveal()).as_ref(), Ok(&code));
            seen.insert(code.reveal().to_string());
        }
        assert_eq!(seen.len(), 200);
    }

    #[test]
    fn parsing_forgives_case_spaces_and_four_letter_prefixes() {
        for text in [
            "42-abandon-zoo-legal",
            "  42 - Abandon  ZOO legal \n",
            "42-aban-zoo-lega",
            "42_ABANDO zoo–legal",
            "42 abandon zoo lega",
        ] {
            assert_eq!(PairingCode::parse(text), Ok(sample()), "{text}");
        }
    }

    #[test]
    fn every_word_of_the_list_is_found_by_its_first_four_letters() {
        for (at, word) in Language::English.word_list().iter().enumerate() {
            assert_eq!(find_word(&word[..word.len().min(4)], 1).map(usize::from), Ok(at), "{word}");
        }
    }

    #[test]
    fn each_mistake_has_its_own_error() {
        use CodeError::*;
        let cases = [
            ("", NoNameplate),
            ("abandon-zoo-legal", NoNameplate),
            ("4-abandon-zoo-legal", NoNameplate),
            ("09-abandon-zoo-legal", NoNameplate),
            ("+42-abandon-zoo-legal", NoNameplate),
            ("420-abandon-zoo-legal", NoNameplate),
            ("42-abandon-zoo", WordCount { found: 2 }),
            ("42-abandon-zoo-legal-zoo", WordCount { found: 4 }),
            ("42-abandon-zzz-legal", UnknownWord { place: 2 }),
            ("42-abandonn-zoo-legal", UnknownWord { place: 1 }),
            ("42-abandon-zoo-ab", AmbiguousWord { place: 3 }),
        ];
        for (text, error) in cases {
            assert_eq!(PairingCode::parse(text), Err(error), "{text}");
        }
        assert_eq!(PairingCode::parse(&"42 ".repeat(100)), Err(TooLong));
    }

    #[test]
    fn the_long_form_reads_back_and_is_bounded() {
        let addresses = vec!["/ip4/192.0.2.1/udp/4001/quic-v1".to_owned(), "/dns/a@b/tcp/1".to_owned()];
        let long = Invitation::new(sample(), addresses.clone()).expect("valid");
        assert_eq!(
            long.reveal().as_str(),
            "42-abandon-zoo-legal@/ip4/192.0.2.1/udp/4001/quic-v1,/dns/a@b/tcp/1"
        );
        assert_eq!(Invitation::parse(&long.reveal()), Ok(long.clone()));
        assert_eq!(Invitation::parse("42 aban zoo lega"), Invitation::new(sample(), vec![]));
        assert_eq!(long.addresses(), addresses);

        let bad = |rest: &str| Invitation::parse(&format!("42-aban-zoo-lega@{rest}"));
        assert_eq!(bad(""), Err(CodeError::BadAddress { place: 1 }));
        assert_eq!(bad("/a,,/b"), Err(CodeError::BadAddress { place: 2 }));
        assert_eq!(bad("/a b"), Err(CodeError::BadAddress { place: 1 }));
        assert_eq!(bad(&"x".repeat(257)), Err(CodeError::BadAddress { place: 1 }));
        assert_eq!(bad(&["/a"; 17].join(",")), Err(CodeError::TooManyAddresses));
        assert_eq!(bad(&"x".repeat(100_000)), Err(CodeError::TooLong));
    }

    #[test]
    fn debug_hides_the_words() {
        let invitation = Invitation::new(sample(), vec!["/a".to_owned()]).expect("valid");
        let text = format!("{invitation:?} {:?}", invitation.code());
        for secret in ["abandon", "zoo", "legal", "words", "2047"] {
            assert!(!text.contains(secret), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_without_panic(text in ".{0,200}") {
            if let Ok(invitation) = Invitation::parse(&text) {
                prop_assert_eq!(Invitation::parse(&invitation.reveal()), Ok(invitation));
            }
        }

        #[test]
        fn nearly_a_code_is_read_or_refused_without_panic(text in "[0-9]{1,3}([- _@,]{1,2}[a-zé]{0,9}){0,5}") {
            if let Ok(code) = PairingCode::parse(&text) {
                prop_assert_eq!(PairingCode::parse(&code.reveal()), Ok(code));
            }
        }
    }
}
