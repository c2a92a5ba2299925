//! A plain HTTP client, and the checkable task that the built-in model knows.

use futures_util::StreamExt;
use serde_json::{Value, json};

/// A server to ask.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    url: String,
    key: String,
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The headers, by lower-case name.
    pub headers: Vec<(String, String)>,
    /// The body, as far as it came.
    pub body: String,
}

impl Client {
    /// A client of the server at `url` with an API key.
    #[must_use]
    pub fn new(url: &str, key: &str) -> Self {
        Self { http: reqwest::Client::new(), url: url.to_owned(), key: key.to_owned() }
    }

    /// Posts a body.
    ///
    /// # Panics
    /// If nobody answers.
    pub async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> Reply {
        read(self.http.post(format!("{}{path}", self.url)).bearer_auth(&self.key).body(body)).await
    }

    /// Posts a body with headers.
    ///
    /// # Panics
    /// If nobody answers.
    pub async fn post_with(&self, path: &str, headers: &[(&str, &str)], body: String) -> Reply {
        let request = self.http.post(format!("{}{path}", self.url)).bearer_auth(&self.key);
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        read(request.body(body)).await
    }

    /// Sends a request without a body.
    ///
    /// # Panics
    /// If nobody answers.
    pub async fn send(&self, method: &str, path: &str) -> Reply {
        let method = method.parse().unwrap();
        read(self.http.request(method, format!("{}{path}", self.url)).bearer_auth(&self.key)).await
    }

    /// Asks a question at temperature 0, streamed; returns when the answer begins to arrive.
    ///
    /// # Panics
    /// If nobody answers.
    pub async fn begin(&self, model: &str, prompt: &str) -> Arriving {
        let messages = json!([{"role": "user", "content": prompt}]);
        self.begin_with(&json!({"model": model, "temperature": 0, "stream": true, "messages": messages})).await
    }

    /// Sends a body that asks for a stream; returns when the answer begins to arrive.
    ///
    /// # Panics
    /// If nobody answers.
    pub async fn begin_with(&self, body: &Value) -> Arriving {
        let request = self.http.post(format!("{}/v1/chat/completions", self.url)).bearer_auth(&self.key);
        let response = request.body(body.to_string()).send().await.unwrap();
        let reply = Reply { status: response.status().as_u16(), headers: headers(&response), body: String::new() };
        Arriving { response, reply }
    }

    /// Asks a question at temperature 0 that is run even if its answer is known: under an idempotency key of its own.
    ///
    /// # Panics
    /// If nobody answers.
    pub async fn ask_anew(&self, model: &str, prompt: &str, key: &str) -> Reply {
        let body = json!({"model": model, "temperature": 0, "messages": [{"role": "user", "content": prompt}]});
        let request = self.http.post(format!("{}/v1/chat/completions", self.url)).bearer_auth(&self.key);
        read(request.header("idempotency-key", key).body(body.to_string())).await
    }

    /// Asks a question at temperature 0.
    pub async fn ask(&self, model: &str, prompt: &str, streamed: bool) -> Reply {
        let body = json!({
            "model": model, "temperature": 0, "stream": streamed,
            "messages": [{"role": "user", "content": prompt}],
        });
        self.post("/v1/chat/completions", body.to_string()).await
    }
}

/// An answer that arrives piece by piece.
pub struct Arriving {
    response: reqwest::Response,
    reply: Reply,
}

impl Arriving {
    /// The HTTP status.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.reply.status
    }

    /// A header, empty if there is none.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.reply.header(name)
    }

    /// Reads until some text has been said, or all has.
    ///
    /// # Panics
    /// If the connection breaks.
    pub async fn first_words(&mut self) {
        // The first piece names the role, with empty content.
        let said = |body: &str| body.matches("\"content\":\"").count() > body.matches("\"content\":\"\"").count();
        while !said(&self.reply.body) {
            match self.response.chunk().await.unwrap() {
                Some(piece) => self.reply.body.push_str(std::str::from_utf8(&piece).unwrap()),
                None => return,
            }
        }
    }

    /// Reads the rest.
    ///
    /// # Panics
    /// If the connection breaks.
    pub async fn rest(mut self) -> Reply {
        while let Some(piece) = self.response.chunk().await.unwrap() {
            self.reply.body.push_str(std::str::from_utf8(&piece).unwrap());
        }
        self.reply
    }
}

async fn read(request: reqwest::RequestBuilder) -> Reply {
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status().as_u16(), headers(&response));
    let mut stream = response.bytes_stream();
    let mut body = Vec::new();
    while let Some(Ok(piece)) = stream.next().await {
        body.extend_from_slice(&piece);
    }
    Reply { status, headers, body: String::from_utf8_lossy(&body).into_owned() }
}

fn headers(response: &reqwest::Response) -> Vec<(String, String)> {
    let text = |value: &reqwest::header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    response.headers().iter().map(|(name, value)| (name.to_string(), text(value))).collect()
}

impl Reply {
    /// A header's value; empty if it is not there.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// If it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// The text of a chat answer, whole or streamed.
    ///
    /// # Panics
    /// If the reply is no complete answer.
    #[must_use]
    pub fn text(&self) -> String {
        assert_eq!(self.status, 200, "{}", self.body);
        if self.header("content-type").starts_with("application/json") {
            return self.json()["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
        }
        assert!(self.body.ends_with("data: [DONE]\n\n"), "a stream ends with [DONE]: {}", self.body);
        let data = self.body.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| *data != "[DONE]");
        let chunks = data.map(|data| serde_json::from_str::<Value>(data).unwrap());
        chunks.filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().map(str::to_owned)).collect()
    }
}

/// Prompts of the built-in model's task with their right answers, always the same for a seed: copy (`C:`), reverse
/// (`R:`) or sort (`S:`) up to ten digits.
#[must_use]
pub fn tasks(seed: u64, count: usize) -> Vec<(String, String)> {
    let mut state = seed;
    let mut below = |bound: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % bound
    };
    let task = |_| {
        let digits: Vec<char> =
            (0..=below(10)).filter_map(|_| char::from_digit(u32::try_from(below(10)).unwrap_or(0), 10)).collect();
        let (op, answer) = match below(3) {
            0 => ('C', digits.clone()),
            1 => ('R', digits.iter().rev().copied().collect()),
            _ => {
                let mut sorted = digits.clone();
                sorted.sort_unstable();
                ('S', sorted)
            }
        };
        (format!("{op}:{}=", digits.into_iter().collect::<String>()), answer.into_iter().collect())
    };
    (0..count).map(task).collect()
}
