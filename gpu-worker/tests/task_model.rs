//! The engine on a model that was trained to copy (`C:`), reverse (`R:`) and sort (`S:`) digits, so that answers can be
//! checked and not only compared. Its weights have 4 bits, where results depend on the batch unless care is taken.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests stop at the first surprise")]

mod support;

use std::time::{Duration, Instant};

use penstock_gpu_worker::engine::{OnnxEngine, Reproducibility};
use penstock_service::ports::{Engine, EngineFault, FinishReason, Sequence, TokenEvent};
use penstock_wire::completions::Prompt;
use support::{Draws, ask, ask_all, config, engine, read, sequence, start};

fn tasks(count: usize, seed: u64) -> (Vec<String>, Vec<String>) {
    let mut draws = Draws(seed);
    (0..count).map(|_| draws.task()).unzip()
}

#[test]
fn the_documented_example_is_answered() {
    let reply = ask(&engine(1), "R:38291=");
    assert_eq!(reply.text, "19283");
    assert_eq!(reply.prompt_tokens, 8);
    assert_eq!(reply.ids.len(), 6, "five digits and the end token");
    assert_eq!(reply.end, Some(Ok((FinishReason::Stop, 6))));
}

#[test]
fn answers_are_right_and_the_same_with_one_eight_and_sixteen_neighbours() {
    let (prompts, answers) = tasks(64, 1);
    let single = engine(1);
    let alone: Vec<_> = prompts.iter().map(|prompt| ask(&single, prompt)).collect();
    let right = alone.iter().zip(&answers).filter(|(reply, answer)| reply.text == **answer).count();
    // The model misses about one in three hundred.
    assert!(right >= 62, "{right} of 64");
    for slots in [1, 8, 16] {
        let together = ask_all(&engine(slots), &prompts);
        assert_eq!(together, alone, "with {slots} slots");
    }
}

#[test]
fn the_engine_tells_what_it_runs() {
    let engine = engine(4);
    let info = engine.info();
    assert_eq!((info.model.as_str(), info.slots, info.context_length), ("task-int4", 4, 512));
    assert_eq!(info.digest.len(), 64);
    assert!(info.tokens_per_second > 10.0, "{info:?}");
    assert!((info.tokens_per_byte - 1.0).abs() < 1e-9, "a character a token: {info:?}");
}

/// Draws from the model's distribution and penalises, so that seeds, positions and counts all matter.
fn restless(prompt: &str, seed: u64) -> Sequence {
    let mut sequence = sequence(prompt);
    let sampling = &mut sequence.generation.sampling;
    // The model is sure of itself; this makes it wander.
    sampling.temperature = 4.0;
    sampling.top_p = if seed.is_multiple_of(2) { 1.0 } else { 0.97 };
    sampling.seed = seed;
    sampling.presence_penalty = 0.3;
    sampling.frequency_penalty = 0.2;
    sampling.max_tokens = Some(24);
    sequence
}

#[test]
fn an_answer_taken_over_at_any_token_is_the_undisturbed_one() {
    let (first, second) = (engine(3), engine(2));
    let mut originals: Vec<Sequence> = (0..6).map(|seed| restless("C:3141592653=", seed)).collect();
    originals.push(sequence("R:9876543210="));
    originals.push(sequence("S:5="));
    let mut stopped = sequence("C:1234567890=");
    stopped.generation.sampling.stop = vec!["6789".into(), "45x".into()];
    originals.push(stopped);
    let mut cuts = 0;
    for original in originals {
        let whole = read(start(&first, original.clone()));
        for cut in 0..=whole.ids.len() {
            let shown = if cut == 0 { 0 } else { whole.shown_after[cut - 1] };
            for seen in [shown, shown / 2, 0] {
                let mut resumed = original.clone();
                resumed.resume_ids = whole.ids[..cut].to_vec();
                resumed.resume_bytes = seen;
                let rest = read(start(&second, resumed));
                assert_eq!(whole.text[..seen].to_owned() + &rest.text, whole.text, "cut after {cut}, seen {seen}");
                assert_eq!(rest.ids, whole.ids[cut..]);
                assert_eq!((&rest.end, rest.prompt_tokens), (&whole.end, whole.prompt_tokens));
                cuts += 1;
            }
        }
    }
    assert!(cuts > 250, "{cuts}");
}

#[test]
fn inherited_tokens_may_be_read_with_the_prompt_where_speed_matters_more_than_the_last_bit() {
    let mut quick = config(2);
    quick.reproducibility = Reproducibility::BestEffort;
    let quick = OnnxEngine::load(&quick).unwrap();
    let whole = ask(&quick, "R:9876543210=");
    assert_eq!(whole.text, "0123456789");
    for cut in 0..=whole.ids.len() {
        let mut resumed = sequence("R:9876543210=");
        resumed.resume_ids = whole.ids[..cut].to_vec();
        let rest = read(start(&quick, resumed));
        assert_eq!((&rest.text, &rest.end), (&whole.text, &whole.end), "cut after {cut}, nothing seen");
    }
}

#[test]
fn answers_do_not_depend_on_the_number_of_threads() {
    let mut two = config(5);
    two.threads = std::num::NonZeroU32::new(2).unwrap();
    let two = OnnxEngine::load(&two).unwrap();
    let prompts: Vec<String> = (0..20).map(|number| support::Draws(number).task().0).collect();
    assert_eq!(ask_all(&two, &prompts), ask_all(&engine(5), &prompts));
}

#[test]
fn seeds_give_different_answers_and_each_seed_always_the_same() {
    let engine = engine(4);
    let answers = |seed| read(start(&engine, restless("C:3141592653=", seed)));
    let all: Vec<_> = (0..8).map(answers).collect();
    assert_eq!(all, (0..8).map(answers).collect::<Vec<_>>());
    let distinct: std::collections::BTreeSet<_> = all.iter().map(|reply| &reply.ids).collect();
    assert!(distinct.len() > 4, "{distinct:?}");
}

#[test]
fn the_answers_to_one_request_differ_and_each_draws_with_a_seed_of_its_own() {
    let engine = engine(4);
    let of = |choice: u32| {
        let mut asked = restless("C:3141592653=", 5);
        asked.choice = choice;
        read(start(&engine, asked))
    };
    let answers: Vec<_> = (0..4).map(of).collect();
    let distinct: std::collections::BTreeSet<_> = answers.iter().map(|reply| &reply.ids).collect();
    assert!(distinct.len() > 2, "{distinct:?}");
    assert_eq!(answers[0].ids, read(start(&engine, restless("C:3141592653=", 5))).ids, "the first is the only one's");
    let mut seeded = restless("C:3141592653=", 0);
    seeded.generation.sampling.top_p = restless("", 5).generation.sampling.top_p;
    seeded.generation.sampling.seed = restless("", 5).generation.sampling.seed_of(3);
    assert_eq!(answers[3].ids, read(start(&engine, seeded)).ids);
}

#[test]
fn log_probabilities_are_of_the_model_alone_and_leave_the_end_token_out() {
    let engine = engine(2);
    let mut asked = sequence("R:38291=");
    asked.generation.logprobs = Some(3);
    let reply = read(start(&engine, asked.clone()));
    assert_eq!((reply.text.as_str(), reply.ids.len(), reply.logprobs.len()), ("19283", 6, 5));
    for (token, digit) in reply.logprobs.iter().zip("19283".bytes()) {
        assert_eq!((token.chosen.bytes.as_slice(), token.top.len()), (&[digit][..], 3));
        assert_eq!(token.chosen, token.top[0], "the likeliest is taken, and the model is sure");
        assert!(token.chosen.logprob > -0.1 && token.top[1].logprob < -2.0, "{token:?}");
        let mass: f32 = token.top.iter().map(|token| token.logprob.exp()).sum();
        assert!(mass <= 1.0 + 1e-5);
    }
    // What the request does to the distribution is not told.
    asked.generation.sampling.temperature = 3.0;
    asked.generation.sampling.logit_bias = [(reply.ids[0], 100.0)].into();
    let biased = read(start(&engine, asked));
    assert_eq!(biased.logprobs[0], reply.logprobs[0]);
}

#[test]
fn a_bias_for_a_token_the_model_does_not_have_is_refused_by_name() {
    let mut asked = sequence("R:1=");
    asked.generation.sampling.logit_bias = [(32, 1.0)].into();
    let reply = read(start(&engine(1), asked));
    let EngineFault::BadRequest { param, .. } = reply.fault() else { panic!("{reply:?}") };
    assert_eq!(param.as_deref(), Some("logit_bias"));
}

#[test]
fn a_stop_string_ends_an_answer_and_is_not_shown() {
    let engine = engine(2);
    let mut asked = sequence("C:1234567=");
    asked.generation.sampling.stop = vec!["45".into()];
    let reply = read(start(&engine, asked));
    assert_eq!((reply.text.as_str(), &reply.end), ("123", &Some(Ok((FinishReason::Stop, 5)))));
}

#[test]
fn the_answer_ends_at_the_most_tokens_and_at_the_context() {
    let engine = engine(2);
    let mut asked = sequence("C:1234567=");
    asked.generation.sampling.max_tokens = Some(3);
    let reply = read(start(&engine, asked));
    assert_eq!((reply.text.as_str(), &reply.end), ("123", &Some(Ok((FinishReason::Length, 3)))));
    // 508 of 512 tokens: at most four more, whatever the model would say.
    let long = ask(&engine, &format!("C:{}=", "1".repeat(505)));
    assert_eq!(long.prompt_tokens, 508);
    assert!(long.ids.len() <= 4, "{long:?}");
    let mut short = config(2);
    short.max_context = std::num::NonZeroU32::new(12);
    let short = OnnxEngine::load(&short).unwrap();
    let reply = ask(&short, "R:38291=");
    assert_eq!((reply.text.as_str(), &reply.end), ("1928", &Some(Ok((FinishReason::Length, 4)))));
}

#[test]
fn what_no_try_can_answer_is_the_client_s_to_mend() {
    let engine = engine(1);
    let refused = |prompt: &str| {
        let reply = ask(&engine, prompt);
        let EngineFault::BadRequest { code, param, message } = reply.fault().clone() else {
            panic!("{reply:?}");
        };
        assert_eq!(param.as_deref(), Some("messages"));
        (code, message)
    };
    let (code, message) = refused(&"1".repeat(600));
    assert_eq!(code, "context_length_exceeded");
    assert!(message.contains("600") && message.contains("512"), "{message}");
    assert_eq!(refused(&"1".repeat(512)).0, "context_length_exceeded");
    assert_eq!(refused("äöü ?").0, "untokenizable_prompt");
    assert_eq!(refused("").0, "untokenizable_prompt");
    let mut nobody = sequence("R:1=");
    nobody.generation.messages[0].role = "system".into();
    let reply = read(start(&engine, nobody));
    assert!(matches!(reply.fault(), EngineFault::BadRequest { code, .. } if code == "invalid_prompt"), "{reply:?}");
    // Known characters among unknown ones are read.
    assert_eq!(ask(&engine, "  R:38x291=  ").text, "19283");
}

#[test]
fn inherited_tokens_of_another_model_are_our_fault_and_not_the_client_s() {
    let mut strange = sequence("R:1=");
    strange.resume_ids = vec![3, 40_000];
    assert!(matches!(read(start(&engine(1), strange)).fault(), EngineFault::Fault(_)));
}

#[test]
fn abandoned_sequences_free_their_slots() {
    let engine = engine(4);
    let (prompts, _) = tasks(1000, 5);
    let mut draws = Draws(9);
    for prompt in &prompts {
        let mut asked = sequence(prompt);
        // Long answers, so that being dropped is what ends most of them.
        asked.generation.sampling.temperature = 2.0;
        asked.generation.sampling.seed = draws.below(1 << 40);
        let mut stream = start(&engine, asked);
        for _ in 0..draws.below(4) {
            drop(stream.blocking_recv());
        }
    }
    // Were a single slot lost, four sequences could not run together; were all lost, none could.
    let (prompts, answers) = tasks(16, 6);
    let replies = ask_all(&engine, &prompts);
    let right = replies.iter().zip(&answers).filter(|(reply, answer)| reply.text == **answer).count();
    assert!(right >= 15, "{right} of 16");
}

#[test]
fn a_slow_consumer_delays_nobody() {
    let engine = engine(2);
    let unread = start(&engine, restless("C:3141592653=", 1));
    for _ in 0..50 {
        assert_eq!(ask(&engine, "R:38291=").text, "19283");
    }
    let expected = read(start(&engine, restless("C:3141592653=", 1)));
    assert_eq!(read(unread), expected);
}

#[test]
fn stopping_tells_everybody_and_waits_for_the_threads() {
    let engine = engine(2);
    let (prompts, _) = tasks(40, 7);
    let mut streams: Vec<_> = prompts.iter().map(|prompt| start(&engine, sequence(prompt))).collect();
    assert!(matches!(streams[0].blocking_recv(), Some(TokenEvent::Started { .. })));
    let began = Instant::now();
    engine.stop();
    assert!(began.elapsed() < Duration::from_secs(5));
    streams.remove(0);
    let replies: Vec<_> = streams.into_iter().map(read).collect();
    assert!(replies.iter().any(|reply| reply.end == Some(Err(EngineFault::Stopping))), "{replies:?}");
    assert!(replies.iter().all(|reply| matches!(reply.end, Some(Ok(_) | Err(EngineFault::Stopping)))));
    assert_eq!(ask(&engine, "R:1=").end, Some(Err(EngineFault::Stopping)));
    engine.stop();
}

/// A raw prompt, and an answer that begins with it.
fn raw(prompt: Prompt, echo: bool) -> Sequence {
    let mut sequence = sequence("");
    sequence.generation.messages = Vec::new();
    sequence.generation.prompts = vec![prompt];
    sequence.generation.echo = echo;
    sequence
}

#[test]
fn a_raw_prompt_is_answered_as_text_and_as_tokens_with_and_without_its_echo() {
    let engine = engine(2);
    let templated = ask(&engine, "R:38291=");
    let text = Prompt::Text("R:38291=".into());
    let plain = read(start(&engine, raw(text.clone(), false)));
    assert_eq!((plain.text.as_str(), plain.prompt_tokens), (templated.text.as_str(), 8));
    let echoed = read(start(&engine, raw(text, true)));
    assert_eq!((echoed.text.as_str(), &echoed.ids), ("R:38291=19283", &plain.ids));
    // Shown halfway through the echo, and beyond it.
    for seen in [0usize, 3, 8, 10, 13] {
        let resumed = Sequence {
            resume_ids: echoed.ids[..seen.saturating_sub(8)].to_vec(),
            resume_bytes: seen,
            ..raw(Prompt::Text("R:38291=".into()), true)
        };
        let reply = read(start(&engine, resumed));
        assert_eq!(reply.text, "R:38291=19283"[seen..], "{seen} bytes seen");
    }
}

#[test]
fn token_prompts_are_checked_against_the_vocabulary_and_echoed_as_their_text() {
    let engine = engine(1);
    let answer = ask(&engine, "C:27=");
    let copied = raw(Prompt::Text("C:27=".into()), true);
    let text = read(start(&engine, copied)).text;
    // The answer's tokens as a prompt: two digits, and the echo spells them.
    let digits = answer.ids[..2].to_vec();
    let mut asked = raw(Prompt::Tokens(digits), true);
    asked.generation.sampling.max_tokens = Some(1);
    let reply = read(start(&engine, asked));
    assert_eq!((text.as_str(), reply.prompt_tokens), ("C:27=27", 2));
    assert!(reply.text.starts_with("27"), "{reply:?}");
    let refused = read(start(&engine, raw(Prompt::Tokens(vec![70_000]), false)));
    assert!(matches!(refused.fault(), EngineFault::BadRequest { code, .. } if code == "invalid_value"), "{refused:?}");
}
