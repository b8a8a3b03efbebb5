//! Which code of a turn is run: the forms in which models write a call.

use proptest::prelude::*;
use thyme_engine::rollout::call::find_call;

fn code(text: &str) -> Option<&str> {
    find_call(text).map(|call| call.code)
}

#[test]
fn the_code_parser_takes_what_thyme_takes() {
    assert_eq!(code("<code>\n```python\nx = 1\n```\n</code>"), Some("x = 1"));
    assert_eq!(code("<code>x = 1</code>"), Some("x = 1"));
    assert_eq!(code("<CODE>```PYTHON\nx\n```</Code>"), Some("x"));
    assert_eq!(code("<code>```\nx\n</code>"), Some("x"));
    assert_eq!(code("<code>\n\n  x\n  y\n</code>"), Some("  x\n  y"), "indentation is kept for the repair");
    assert_eq!(code("<code>a</code> <code>b</code>"), Some("a"), "the first call counts");
    assert_eq!(code("<code> \n </code>"), None);
    assert_eq!(code("<code>open"), None);
    assert_eq!(find_call("äb<code>x</code>").unwrap().start, 3);
}

#[test]
fn the_last_opening_tag_opens_the_call_when_others_are_talked_about() {
    for (text, start, expected) in [
        ("I will write <code> now. <code>```python\nx = 1\n```</code>", 25, "x = 1"),
        ("I'm writing <code> here, I'm sure. <code>x = 'a'</code>", 35, "x = 'a'"),
        ("Tags like <code> and <CODE> open a call.\n<code>\nx = 1\n</code>", 41, "x = 1"),
        ("A `<code>```python```</code>", 3, ""),
        ("A block is <code>```python```, so:\n<code>\n```python\ny\n```\n</code>", 35, "y"),
        ("First <code>\nthen <code>\nx = \"b\"\n</code>", 18, "x = \"b\""),
    ] {
        let found = find_call(text);
        assert_eq!(found.map(|call| call.code).unwrap_or_default(), expected, "{text:?}");
        assert!(expected.is_empty() || found.unwrap().start == start, "{text:?}");
    }
}

#[test]
fn a_tag_inside_the_code_opens_nothing() {
    for (text, expected) in [
        ("<code>```python\nprint(\"<code>\")\n```</code>", "print(\"<code>\")"),
        ("<code>\nprint('write <code> first')\n</code>", "print('write <code> first')"),
        ("<code>\nx = 1  # not the <code> of before\n</code>", "x = 1  # not the <code> of before"),
        ("<code>```py\ns = '''\n<code>\n'''\n```</code>", "s = '''\n<code>\n'''"),
    ] {
        assert_eq!(find_call(text).map(|call| (call.start, call.code)), Some((0, expected)), "{text:?}");
    }
}

#[test]
fn a_fence_is_taken_away_whatever_its_info_and_what_is_said_around_it() {
    let words = [
        "",
        "python",
        "Python",
        "PYTHON",
        "py",
        "py3",
        "python3",
        "python3.11",
        "ipython",
        "tool_code",
        "c++",
        "{.python}",
        " python ",
    ];
    for (fence, word) in ["```", "~~~", "````"].iter().flat_map(|fence| words.map(|word| (fence, word))) {
        for (before, behind) in [
            ("", ""),
            ("\n", "\n"),
            ("Here it is:\n", ""),
            ("\n  ", "\nThis crops it.\n"),
            ("I crop it. ", "\n\nDone."),
        ] {
            let text = format!("so <code>{before}{fence}{word}\nx = 1\nif x:\n    print(x)\n{fence}{behind}</code>");
            assert_eq!(code(&text), Some("x = 1\nif x:\n    print(x)"), "{text:?}");
        }
    }
}

#[test]
fn other_ways_to_write_a_fence() {
    for (inside, expected) in [
        ("```python x = 1```", "x = 1"),
        ("```x = 1```", "x = 1"),
        ("```python import os\nprint(1)\n```", "import os\nprint(1)"),
        ("```import os\nprint(1)\n```", "import os\nprint(1)"),
        ("```py\r\nx = 1\r\nprint(x)\r\n```\r\n", "x = 1\r\nprint(x)"),
        ("```python\nx = 1", "x = 1"),
        ("x = 1\n```", "x = 1"),
        ("x = 1```", "x = 1"),
        ("\npython\nx = 1\n", "x = 1"),
        ("```\n\n  x = 1\n  y = 2\n```", "  x = 1\n  y = 2"),
        ("```python\nprint(1)\n```\nIt prints\n```\n1\n```", "print(1)"),
        ("```text\nplan\n```\n```python\nprint(1)\n```", "print(1)"),
        ("```python\ntext = \"\"\"\n```\n\"\"\"\nprint(text)\n```", "text = \"\"\"\n```\n\"\"\"\nprint(text)"),
        ("print('```')", "print('```')"),
        ("s = \"\"\"\n```\nx\n```\n\"\"\"\nprint(s)", "s = \"\"\"\n```\nx\n```\n\"\"\"\nprint(s)"),
        ("python = 3\nprint(python)", "python = 3\nprint(python)"),
    ] {
        assert_eq!(code(&format!("<code>{inside}</code>")), Some(expected), "{inside:?}");
    }
    for empty in ["", " \n ", "```python\n```", "```\n\n```", "~~~", "```"] {
        assert_eq!(code(&format!("<code>{empty}</code>")), None, "{empty:?}");
    }
}

proptest! {
    #[test]
    fn any_text_is_read_without_a_panic_and_plain_code_comes_back(
        text in "(<code>|</code>|```|~~~|python|\n| |x|'|\"|#|é|\\{|\\})*",
        lines in prop::collection::vec("[a-z]{1,4} = [0-9(),é ]{1,6}[0-9)]", 1..6),
    ) {
        if let Some(call) = find_call(&text) {
            prop_assert!(text[call.start..].to_ascii_lowercase().starts_with("<code>"));
            prop_assert!(!call.code.trim().is_empty());
        }
        let lines = lines.join("\n");
        let fenced = format!("a <code> b <code>\n```python\n{lines}\n```\n</code>");
        prop_assert_eq!(code(&fenced), Some(&*lines));
        let bare = format!("a <code> b <code>\n{lines}\n</code>");
        prop_assert_eq!(code(&bare), Some(&*lines));
    }
}
