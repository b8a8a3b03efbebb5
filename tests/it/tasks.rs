//! The embedded task and Thyme's data files: what a newcomer's first run stands on.

use std::collections::HashSet;
use std::path::Path;

use thyme_engine::tasks::jsonl::{self, NeedleFile};
use thyme_engine::tasks::needle::{self, CROP_SIDE, Colour, Kind, Mixture, PICTURE_SIDE, Scene, Split};
use thyme_engine::tasks::{Example, Role};
use tokenizers::Tokenizer;

const KINDS: [Kind; 5] = [Kind::Task, Kind::Caption, Kind::Read, Kind::Look, Kind::Guess];

fn tiny_tokenizer() -> Tokenizer {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes/tiny/tokenizer.json");
    Tokenizer::from_file(path).unwrap()
}

fn text_of(example: &Example) -> String {
    example.messages.iter().map(|message| message.text.as_str()).collect()
}

#[test]
fn samples_are_functions_of_split_seed_and_index() {
    for kind in KINDS {
        assert_eq!(needle::example(kind, Split::Train, 3, 5), needle::example(kind, Split::Train, 3, 5));
        assert_ne!(needle::example(kind, Split::Train, 3, 5), needle::example(kind, Split::Train, 3, 6));
        assert_ne!(needle::example(kind, Split::Train, 3, 5), needle::example(kind, Split::Train, 4, 5));
    }
}

#[test]
fn no_scene_is_in_both_splits_whatever_the_order_of_its_plates() {
    for index in 0..500 {
        for split in [Split::Train, Split::HeldOut] {
            let mut scene = needle::scene(split, 1, index);
            scene.plates.reverse();
            assert_eq!(scene.split(), split);
        }
    }
}

#[test]
fn scenes_have_distinct_colours_distinct_cells_and_every_digit_in_equal_shares() {
    let mut digits = [0usize; 10];
    for index in 0..2000 {
        let scene = needle::scene(Split::Train, 7, index);
        let colours: HashSet<Colour> = scene.plates.iter().map(|plate| plate.colour).collect();
        let cells: HashSet<(u32, u32)> = scene.plates.iter().map(|plate| (plate.row, plate.column)).collect();
        assert_eq!((colours.len(), cells.len()), (scene.plates.len(), scene.plates.len()));
        let answer = needle::example(Kind::Task, Split::Train, 7, index % 40).solution.unwrap().to_string();
        assert!(answer.parse::<usize>().unwrap() < 10);
        scene.plates.iter().for_each(|plate| digits[usize::from(plate.digit)] += 1);
    }
    let total: usize = digits.iter().sum();
    // A share of one tenth of n = 12,000 draws has a standard deviation of 0.0027; six of these are 0.0165.
    for count in digits {
        assert!((count as f64 / total as f64 - 0.1).abs() < 0.0165, "{digits:?}");
    }
}

#[test]
fn a_crop_around_a_plates_cell_holds_its_whole_digit_and_nothing_but_plate_and_ink() {
    for index in 0..40 {
        let scene = needle::scene(Split::Train, 11, index);
        let picture = scene.picture();
        assert_eq!(picture.dimensions(), (PICTURE_SIDE, PICTURE_SIDE));
        for plate in &scene.plates {
            let crop = Scene::crop(&picture, plate.row, plate.column);
            assert_eq!(crop.dimensions(), (CROP_SIDE, CROP_SIDE));
            let colours: HashSet<[u8; 3]> = crop.pixels().map(|pixel| pixel.0).collect();
            assert_eq!(colours.len(), 2, "a crop shows the plate and the ink only");
            let edge = crop
                .enumerate_pixels()
                .filter(|(x, y, _)| *x == 0 || *y == 0 || *x + 1 == CROP_SIDE || *y + 1 == CROP_SIDE);
            let edges: HashSet<[u8; 3]> = edge.map(|(_, _, pixel)| pixel.0).collect();
            assert_eq!(edges.len(), 1, "no ink touches the edge of the crop");
        }
    }
}

#[test]
fn placeholders_match_pictures_and_answers_match_solutions() {
    for index in 0..20 {
        for kind in KINDS {
            let example = needle::example(kind, Split::Train, 2, index);
            assert_eq!(text_of(&example).matches("<image>").count(), example.images.len(), "{kind:?}");
        }
        let task = needle::example(Kind::Task, Split::Train, 2, index);
        let look = needle::example(Kind::Look, Split::Train, 2, index);
        assert_eq!(task.messages[..], look.messages[..2], "a demonstration begins as the task does");
        let right = format!("</think>\n<answer>{}</answer>", task.solution.unwrap());
        assert!(look.messages[2].text.ends_with(&right));
    }
}

#[test]
fn a_guess_is_right_about_as_often_as_chance() {
    let right = (0..2000)
        .filter(|&index| {
            let answer = needle::example(Kind::Task, Split::Train, 5, index % 200).solution.unwrap();
            let guess = needle::example(Kind::Guess, Split::Train, 5, index % 200).messages[2].text.clone();
            guess.ends_with(&format!("<answer>{answer}</answer>"))
        })
        .count();
    assert!((100..400).contains(&right), "{right} of 2000 guesses are right");
}

#[test]
fn mixtures_keep_their_shares_and_drop_kinds_of_no_share() {
    let looks = (0..400).filter(|&index| {
        let example = needle::mixed(&Mixture::DEMONSTRATIONS, Split::Train, 9, index);
        assert_eq!(example.messages[0].role, Role::System);
        example.images.len() == 2
    });
    // 0.4 of 400 draws: standard deviation 9.8; five of these.
    assert!((111..=209).contains(&looks.count()));
}

#[test]
fn every_word_of_the_task_is_one_token_of_the_tiny_tokenizer() {
    let tokenizer = tiny_tokenizer();
    for index in 0..30 {
        for kind in KINDS {
            let text = text_of(&needle::example(kind, Split::Train, 13, index));
            let encoding = tokenizer.encode(text.clone(), false).unwrap();
            let words: HashSet<&str> =
                text.split(|c: char| !c.is_alphabetic()).filter(|word| !word.is_empty()).collect();
            for word in words {
                let whole = encoding
                    .get_tokens()
                    .iter()
                    .any(|token| token.trim_matches(|c: char| !c.is_ascii_alphabetic()) == word);
                assert!(whole, "`{word}` is split: {:?}", encoding.get_tokens());
            }
        }
    }
}

#[test]
fn the_tiny_models_files_agree_on_their_special_tokens() {
    let tokenizer = tiny_tokenizer();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes/tiny");
    let config: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(folder.join("config.json")).unwrap()).unwrap();
    let names = [
        ("bos_token_id", "<|endoftext|>"),
        ("eos_token_id", "<|im_end|>"),
        ("vision_start_token_id", "<|vision_start|>"),
        ("vision_end_token_id", "<|vision_end|>"),
        ("vision_token_id", "<|vision_pad|>"),
        ("image_token_id", "<|image_pad|>"),
        ("video_token_id", "<|video_pad|>"),
    ];
    for (key, token) in names {
        assert_eq!(config[key].as_u64(), tokenizer.token_to_id(token).map(u64::from), "{key}");
    }
    assert_eq!(config["vocab_size"].as_u64(), Some(tokenizer.get_vocab_size(true) as u64));
}

#[test]
fn files_give_back_the_same_pictures_and_text() {
    let folder = tempfile::tempdir().unwrap();
    for (file, kind) in
        [(NeedleFile::Tasks(None), None), (NeedleFile::Samples(Mixture::PRETRAIN), Some(Mixture::PRETRAIN))]
    {
        let path = jsonl::write_needle(folder.path(), file, 6, Split::HeldOut, 21).unwrap();
        for (index, record) in jsonl::read(&path).unwrap().into_iter().enumerate() {
            let images = record.images.iter().map(|path| image::open(path).unwrap().into_rgb8()).collect();
            let read = record.with_images(images);
            let drawn = match kind {
                None => needle::example(Kind::Task, Split::HeldOut, 21, index as u64),
                Some(mixture) => needle::mixed(&mixture, Split::HeldOut, 21, index as u64),
            };
            assert_eq!((read.messages, read.images, read.solution), (drawn.messages, drawn.images, drawn.solution));
        }
    }
}

#[test]
fn a_wrong_line_is_named_with_its_number_its_key_and_a_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data.jsonl");
    let cases = [
        ("{\"question\": \"a\"", ":2: not a JSON object"),
        ("{\"question\": \"a\"}", ":2: key `response`: it is missing; a line needs"),
        ("{\"messages\": [], \"images\": []}", ":2: key `messages`: the list is empty; it should be a list of"),
        (
            "{\"messages\": [{\"role\": \"king\", \"content\": \"\"}]}",
            ":2: key `messages`: it has the value `king`, which is not known",
        ),
        (
            "{\"messages\": [{\"role\": \"user\", \"content\": \"<image>\"}], \"images\": []}",
            "1 `<image>` placeholders for 0 pictures",
        ),
        (
            "{\"question\": \"a\", \"response\": \"b\", \"image\": [3]}",
            ":2: key `image`: found a number; it should be a list of paths",
        ),
        (
            "{\"question\": \"a\", \"response\": \"b\", \"image\": [\"data:image/png;base64,AA\"]}",
            "found an embedded picture",
        ),
        (
            "{\"messages\": [{\"role\": \"user\", \"content\": \"\"}], \"solution\": []}",
            ":2: key `solution`: found an empty list",
        ),
    ];
    for (line, expected) in cases {
        std::fs::write(&path, format!("{{\"question\": \"a\", \"response\": \"b\"}}\n{line}\n")).unwrap();
        let message = jsonl::read(&path).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
    std::fs::write(&path, "\n").unwrap();
    assert!(jsonl::read(&path).unwrap_err().to_string().contains("no sample in it"));
    assert!(jsonl::read(&folder.path().join("none.jsonl")).unwrap_err().to_string().contains("cannot read"));
}
