//! What a newcomer is shown once the server is ready: lines that work when pasted.

use std::fmt::Write;

use penstock_service::ports::PoolKind;

use crate::ready::Ready;

/// The built-in model answers this; other models get a question in words.
fn example(model: &str) -> &'static str {
    if model.starts_with("task-int4") { "R:38291=" } else { "Say hello in three languages." }
}

/// The lines.
pub(crate) fn instructions(ready: &Ready, has_workers: bool, first: PoolKind) -> String {
    let Ready { url, api_key, models, .. } = ready;
    let model = models.first().map_or("", String::as_str);
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = writeln!(text, "Penstock serves {} at {url}", models.join(", "));
    let _ = writeln!(text, "API key: {api_key}\n");
    if !has_workers {
        let _ = writeln!(text, "No workers: requests are accepted and wait for one.\n");
    }
    text.push_str(&match first {
        PoolKind::Generation => asking(url, api_key, model),
        PoolKind::Embedding => embedding(url, api_key, model),
    });
    let _ = write!(text, "Stop with Ctrl-C.");
    text
}

/// How to have texts turned into vectors.
fn embedding(url: &str, api_key: &str, model: &str) -> String {
    format!(
        "curl -s {url}/v1/embeddings -H 'Authorization: Bearer {api_key}' -H 'Content-Type: application/json' \\
  -d '{{\"model\": \"{model}\", \"input\": \"the water is stored\"}}'

# Python (pip install openai)
from openai import OpenAI
client = OpenAI(base_url=\"{url}/v1\", api_key=\"{api_key}\")
answer = client.embeddings.create(model=\"{model}\", input=[\"the water is stored\", \"and promised\"])
print(len(answer.data), len(answer.data[0].embedding))\n\n"
    )
}

/// How to ask a question.
fn asking(url: &str, api_key: &str, model: &str) -> String {
    let prompt = example(model);
    let mut text = String::new();
    let _ = writeln!(
        text,
        "curl -s {url}/v1/chat/completions -H 'Authorization: Bearer {api_key}' -H 'Content-Type: application/json' \\
  -d '{{\"model\": \"{model}\", \"temperature\": 0, \"messages\": [{{\"role\": \"user\", \"content\": \"{prompt}\"}}]}}'\n"
    );
    let _ = writeln!(
        text,
        "# Python (pip install openai)
from openai import OpenAI
client = OpenAI(base_url=\"{url}/v1\", api_key=\"{api_key}\")
answer = client.chat.completions.create(model=\"{model}\", temperature=0,
    messages=[{{\"role\": \"user\", \"content\": \"{prompt}\"}}])
print(answer.choices[0].message.content)\n"
    );
    text
}
