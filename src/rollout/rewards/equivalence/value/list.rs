//! Lists: a text split at its commas, line ends and words like `and`.

/// What separates the parts of a list.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Separators {
    /// Commas, semicolons, line ends, `and`, `&`; a comma between digits groups thousands.
    Words,
    /// Commas and semicolons; a comma between digits groups thousands.
    Signs,
    /// Commas and semicolons; a comma between digits groups thousands only beside another comma with a space.
    InBrackets,
}

/// Splits a list at its separators outside brackets. One part where it is no list.
pub fn split_list(text: &str, separators: Separators) -> Vec<&str> {
    let has_spaced = text.contains(", ") || text.contains(';');
    let mut parts = Vec::new();
    let (mut depth, mut start, mut at) = (0i32, 0, 0);
    while let Some(character) = text[at..].chars().next() {
        let rest = &text[at..];
        let mut length = 0;
        match character {
            '(' | '[' | '{' | '⦃' => depth += 1,
            ')' | ']' | '}' | '⦄' => depth -= 1,
            ',' if depth == 0 => {
                let groups = groups_thousands(text, at) && (separators != Separators::InBrackets || has_spaced);
                length = usize::from(!groups);
            }
            ';' if depth == 0 => length = 1,
            '\n' | '&' if depth == 0 && separators == Separators::Words => length = 1,
            '和' | '与' if depth == 0 && separators == Separators::Words => length = character.len_utf8(),
            ' ' if depth == 0 && separators == Separators::Words => {
                length =
                    [" and ", " as well as "].iter().find(|word| rest.starts_with(**word)).map_or(0, |word| word.len());
            }
            _ => {}
        }
        if length > 0 {
            parts.push(&text[start..at]);
            start = at + length;
            at = start;
        } else {
            at += character.len_utf8();
        }
    }
    parts.push(&text[start..]);
    // Bullets of a list.
    let bullet = |part: &'_ str| -> usize {
        let bare = part.trim_start();
        let marked = ["- ", "* ", "· "].iter().find_map(|mark| bare.strip_prefix(mark)).unwrap_or(bare);
        part.len() - if separators == Separators::Words && text.contains('\n') { marked.len() } else { bare.len() }
    };
    let parts: Vec<&str> = parts.into_iter().map(|part| &part[bullet(part)..]).collect();
    // `a, b, and c`: nothing stands between the comma and the word.
    let parts: Vec<&str> = parts.into_iter().map(|part| part.trim().trim_start_matches("and ").trim_start()).collect();
    match parts.iter().filter(|part| !part.is_empty()).count() {
        count if count + 1 >= parts.len() && count > 1 => parts.into_iter().filter(|part| !part.is_empty()).collect(),
        _ => vec![text],
    }
}

/// Whether the comma at `comma` stands between one to three digits (or a group) and exactly three digits.
fn groups_thousands(text: &str, comma: usize) -> bool {
    let before = text[..comma].bytes().rev().take_while(u8::is_ascii_digit).count();
    let after = text[comma + 1..].bytes().take_while(u8::is_ascii_digit).count();
    (1..=3).contains(&before) && after == 3
}
