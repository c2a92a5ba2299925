use proptest::prelude::*;

use super::*;

fn channels(beginning: Beginning, manner: Manner) -> Channels {
    Channels::new(beginning, Some(manner), ["f".to_owned(), "g".to_owned()].into())
}

fn say(mut channels: Channels, pieces: &[&str]) -> Vec<Part> {
    let mut parts = Vec::new();
    for piece in pieces {
        channels.push(piece).into_iter().for_each(|part| Part::append(&mut parts, part));
    }
    channels.finish().into_iter().for_each(|part| Part::append(&mut parts, part));
    parts
}

fn words(text: &str) -> Part {
    Part::Content(text.to_owned())
}

fn thought(text: &str) -> Part {
    Part::Reasoning(text.to_owned())
}

fn a_call(name: &str, arguments: &str) -> Part {
    Part::Call { name: name.to_owned(), arguments: arguments.to_owned() }
}

#[test]
fn thoughts_are_told_from_the_answer_whoever_opened_them() {
    let plain = |beginning| Channels::new(beginning, None, [].into());
    let expected = [thought("two and\n\ntwo"), words("4\n")];
    assert_eq!(say(plain(Beginning::Thought), &["\ntwo and", "\n\n", "two\n</th", "ink>\n\n4\n"]), expected);
    assert_eq!(say(plain(Beginning::Either), &["\n<thi", "nk>\ntwo and\n\ntwo</think>", "4\n"]), expected);
    assert_eq!(say(plain(Beginning::Either), &[" <thin air> ", "</think>"]), [words(" <thin air> </think>")]);
    assert_eq!(say(plain(Beginning::Either), &["so", " <think>x"]), [words("so <think>x")]);
    assert_eq!(say(plain(Beginning::Thought), &["no end </thin"]), [thought("no end </thin")]);
    assert_eq!(say(plain(Beginning::Answer), &["<think>x</think>"]), [words("<think>x</think>")]);
    assert_eq!(say(plain(Beginning::Either), &["<think>\n\n</think>\n\nhi"]), [words("hi")]);
}

#[test]
fn nothing_is_shown_that_may_still_become_a_marker() {
    let mut tagged = channels(Beginning::Answer, Manner::Tagged);
    assert_eq!(tagged.push("Let me see. <tool"), [words("Let me see.")]);
    assert_eq!(tagged.push("box"), [words(" <toolbox")]);
    assert_eq!(tagged.push("\n<tool_call>{\"name\": \"f\", "), []);
    assert_eq!(tagged.push("\"arguments\": {\"a\": \"}\"}}"), [a_call("f", "{\"a\": \"}\"}")]);
    assert_eq!((tagged.push("\n</tool_call>\n"), tagged.finish()), (vec![], vec![]));
}

#[test]
fn calls_are_read_in_every_manner() {
    let two = [a_call("f", "{\"a\": 1}"), a_call("g", "{}")];
    let tagged = "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>\n<tool_call>\n{\"name\": \"g\", \
                  \"arguments\": {}}\n</tool_call>";
    assert_eq!(say(channels(Beginning::Answer, Manner::Tagged), &[tagged]), two);
    let bare = "<|python_tag|>{\"name\": \"f\", \"parameters\": {\"a\": 1}}; {\"name\": \"g\", \"parameters\": {}}";
    assert_eq!(say(channels(Beginning::Answer, Manner::Bare), &[bare]), two);
    let listed = "[TOOL_CALLS] [{\"name\": \"f\", \"arguments\": {\"a\": 1}}, {\"name\": \"g\", \"arguments\": {}}]";
    assert_eq!(say(channels(Beginning::Answer, Manner::Listed), &[listed]), two);
    let newer = "[TOOL_CALLS]f[ARGS]{\"a\": 1}[TOOL_CALLS]g[ARGS]{}";
    assert_eq!(say(channels(Beginning::Answer, Manner::Listed), &[newer]), two);
    let thinking = format!("hm</think>\n\nI see.\n{tagged}");
    let said = say(channels(Beginning::Thought, Manner::Tagged), &[&thinking]);
    assert_eq!(said, [&[thought("hm"), words("I see.")], &two[..]].concat());
}

#[test]
fn what_is_no_call_stays_text_to_the_letter() {
    for (manner, text) in [
        (Manner::Tagged, "<tool_call>{\"name\": \"h\", \"arguments\": {}}</tool_call> ok "),
        (Manner::Tagged, " a <tool_call> b </tool_call>"),
        (Manner::Tagged, "<tool_call>{\"name\": \"f\", \"argu"),
        (Manner::Tagged, "x <tool_cal"),
        (Manner::Bare, "{\"answer\": 42}"),
        (Manner::Bare, "{\"name\": \"f\""),
        (Manner::Bare, " <|python_tag|>print(1)"),
        (Manner::Bare, "So: {\"name\": \"f\", \"parameters\": {}}"),
        (Manner::Listed, "[TOOL_CALLS] [1, 2]"),
        (Manner::Listed, "[TOOL_CALLS]nobody[ARGS]{}"),
        (Manner::Listed, "[TOOL_CALLS]what is this"),
    ] {
        assert_eq!(say(channels(Beginning::Answer, manner), &[text]), [words(text)], "{manner:?}");
    }
}

#[test]
fn without_tools_markers_are_words() {
    let call = "<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>";
    assert_eq!(say(Channels::plain(), &[call]), [words(call)]);
}

fn speech() -> impl Strategy<Value = Vec<String>> {
    let bits = prop_oneof![
        "[ab \\n{}\\[\\],;\"<✓]{0,5}".prop_map(String::from),
        proptest::sample::select(
            [
                "<think>",
                "</think>",
                "<tool_call>",
                "</tool_call>",
                "[TOOL_CALLS]",
                "[ARGS]",
                "<|python_tag|>",
                "f",
                "{\"name\": \"f\", \"arguments\": {\"x\": [1]}}",
                "{\"name\": \"h\", \"parameters\": {}}",
                "<tool",
                "[",
                ", ",
            ]
            .map(str::to_owned)
            .to_vec()
        ),
    ];
    proptest::collection::vec(bits, 0..9)
}

proptest! {
    #[test]
    fn the_parts_do_not_depend_on_the_pieces(
        speech in speech(), step in 1usize..7,
        beginning in proptest::sample::select(vec![Beginning::Answer, Beginning::Thought, Beginning::Either]),
        manner in proptest::sample::select(vec![None, Some(Manner::Tagged), Some(Manner::Bare), Some(Manner::Listed)]),
    ) {
        let fresh = || Channels::new(beginning, manner, ["f".to_owned()].into());
        let whole = speech.concat();
        let characters: Vec<char> = whole.chars().collect();
        let pieces: Vec<String> = characters.chunks(step).map(|piece| piece.iter().collect()).collect();
        let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
        prop_assert_eq!(say(fresh(), &pieces), say(fresh(), &[&whole]));
    }

    #[test]
    fn no_word_is_lost_or_made_up(speech in speech()) {
        let whole = speech.concat();
        let mut said = String::new();
        for part in say(channels(Beginning::Answer, Manner::Tagged), &[&whole]) {
            if let Part::Content(text) = part {
                said += &text;
            }
        }
        // The words are the text without some of its calls: what is left of it, in its order.
        let mut rest = whole.chars();
        prop_assert!(said.chars().all(|character| rest.any(|other| other == character)));
    }
}
