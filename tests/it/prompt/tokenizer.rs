//! Token ids and text, both ways.

use proptest::prelude::*;
use serde_json::{Value, json};
use thyme_engine::prompt::{StreamDecoder, Tokenizer};

use super::{golden, golden_folder, numbers};

fn tokenizer() -> Tokenizer {
    Tokenizer::open(&golden_folder().join("checkpoint")).expect("golden tokenizer")
}

#[test]
fn token_ids_equal_those_of_transformers() {
    let (tokenizer, golden) = (tokenizer(), golden("tokens.json"));
    assert_eq!(tokenizer.len() as u64, golden["len"].as_u64().unwrap());
    let mut checked = 0;
    for case in golden["cases"].as_array().unwrap() {
        let Some(text) = case["text"].as_str() else { continue };
        assert_eq!(tokenizer.encode(text).unwrap(), numbers(&case["ids"]), "{text:?}");
        checked += 1;
    }
    assert!(checked > 80);
}

#[test]
fn decoded_text_equals_that_of_transformers() {
    let (tokenizer, golden) = (tokenizer(), golden("tokens.json"));
    for case in golden["cases"].as_array().unwrap() {
        let ids = numbers(&case["ids"]);
        assert_eq!(tokenizer.decode(&ids, false), case["decoded"].as_str().unwrap());
        assert_eq!(tokenizer.decode(&ids, true), case["decoded_plain"].as_str().unwrap());
    }
}

#[test]
fn text_that_nfc_changes_comes_back_composed() {
    let tokenizer = tokenizer();
    let ids = tokenizer.encode("cafe\u{301}").unwrap();
    assert_eq!(tokenizer.decode(&ids, false), "café");
}

#[test]
fn the_256_single_byte_tokens_stand_for_all_bytes() {
    let tokenizer = tokenizer();
    let mut seen: Vec<u8> = (0..256).flat_map(|id| tokenizer.token_bytes(id)).copied().collect();
    seen.sort_unstable();
    assert_eq!(seen, (0..=255).collect::<Vec<u8>>());
    assert_eq!(tokenizer.token_bytes(tokenizer.token_id("<|im_end|>").unwrap()), b"<|im_end|>");
    assert_eq!(tokenizer.token_bytes(u32::MAX), b"");
    assert_eq!(tokenizer.token_id("<|no such token|>"), None);
}

#[test]
fn a_missing_damaged_or_foreign_tokenizer_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    let message = || Tokenizer::open(folder.path()).err().expect("an error").to_string();
    assert!(message().contains("tokenizer.json does not exist") && message().contains("save_pretrained"));
    std::fs::write(&path, "{\"decoder\": {\"type\": \"ByteLevel\"}, \"model\"").unwrap();
    assert!(message().contains("not a tokenizer.json"));
    std::fs::write(&path, "{\"decoder\": {\"type\": \"ByteLevel\"}, \"model\": {\"type\": \"BPE\"}}").unwrap();
    assert!(message().contains("not a tokenizer.json"));
    std::fs::write(&path, "{\"decoder\": {\"type\": \"Metaspace\"}}").unwrap();
    assert!(message().contains("byte-level"));
}

/// A file asks for a table of its largest id, or for endless work: it is refused by name, before anything is made of it.
#[test]
fn a_tokenizer_that_asks_for_too_much_is_refused() {
    let whole = std::fs::read_to_string(golden_folder().join("checkpoint/tokenizer.json")).unwrap();
    let whole: Value = serde_json::from_str(&whole).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let refused = |change: &dyn Fn(&mut Value), says_so: &str| {
        let mut tokenizer = whole.clone();
        change(&mut tokenizer);
        std::fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
        let message = Tokenizer::open(folder.path()).err().expect(says_so).to_string();
        assert!(message.contains("tokenizer.json") && message.contains(says_so), "{message}");
    };
    for id in [json!(4_294_967_295u32), json!(1u64 << 32), json!(1 << 24)] {
        let says_so = format!("model.vocab gives \"zz\" the id {id}");
        refused(&|tokenizer| tokenizer["model"]["vocab"]["zz"] = id.clone(), &says_so);
        refused(&|tokenizer| tokenizer["added_tokens"][0]["id"] = id.clone(), &format!("the id {id}"));
    }
    for id in [json!(-1), json!(1.5), json!("1")] {
        refused(&|tokenizer| tokenizer["model"]["vocab"]["zz"] = id.clone(), "a whole number from 0 on");
    }
    refused(&|tokenizer| tokenizer["model"]["vocab"]["zz"] = json!(5), "the same id 5");
    let nest = |tokenizer: &mut Value| {
        for _ in 0..10 {
            let inner = tokenizer["pre_tokenizer"].take();
            tokenizer["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [inner]});
        }
    };
    refused(&nest, "within each other");
    let replaced =
        |pattern: &str, content: String| json!({"type": "Replace", "pattern": {"String": pattern}, "content": content});
    refused(&|tokenizer| tokenizer["normalizer"] = replaced("", "x".to_owned()), "fails at");
    refused(&|tokenizer| tokenizer["normalizer"] = replaced("a", "a".repeat(1000)), "times longer");
    let split = |pattern: String| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    refused(
        &|tokenizer| tokenizer["pre_tokenizer"] = split("(".repeat(3000) + "a" + &")".repeat(3000)),
        "groups within",
    );
    let precompiled = json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"});
    refused(&|tokenizer| tokenizer["normalizer"] = precompiled.clone(), "Precompiled");
}

proptest! {
    #[test]
    fn any_text_survives_the_round_trip_once_composed(text in "\\PC{0,40}") {
        let tokenizer = tokenizer();
        let once = tokenizer.decode(&tokenizer.encode(&text).unwrap(), false);
        let twice = tokenizer.decode(&tokenizer.encode(&once).unwrap(), false);
        prop_assert_eq!(once, twice);
    }

    #[test]
    fn bytes_decoded_in_chunks_give_the_same_text_as_the_whole(
        mut bytes in prop::collection::vec(any::<u8>(), 0..60),
        text in "\\PC{0,12}",
        at in any::<prop::sample::Index>(),
        cuts in prop::collection::vec(1usize..5, 1..20),
    ) {
        let at = at.index(bytes.len() + 1);
        bytes.splice(at..at, text.bytes());
        let (mut decoder, mut streamed, mut rest) = (StreamDecoder::default(), String::new(), bytes.as_slice());
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (chunk, after) = rest.split_at((*cut).min(rest.len()));
            streamed += &decoder.push(chunk);
            rest = after;
        }
        streamed += &decoder.finish();
        prop_assert_eq!(streamed, String::from_utf8_lossy(&bytes));
    }
}

#[test]
fn a_streamed_character_appears_only_when_it_is_complete() {
    let mut decoder = StreamDecoder::default();
    let pieces: Vec<String> = "a€".bytes().map(|byte| decoder.push(&[byte])).collect();
    assert_eq!(pieces, ["a", "", "", "€"]);
    assert_eq!(decoder.push(&[0xE2, 0x82]), "");
    assert_eq!(decoder.finish(), "\u{FFFD}");
}
