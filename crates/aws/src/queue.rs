//! Queues on SQS: standard queues, one per pool and class, with a dead-letter queue each.
//!
//! Order and exactly-once delivery are not asked of SQS: the job record makes effects exact. The tenant is the message
//! group, which on a standard queue means fair queueing: a tenant with a long backlog does not delay the others.

use std::sync::PoisonError;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_sqs::config::retry::RetryConfig;
use aws_sdk_sqs::config::timeout::TimeoutConfig;
use aws_sdk_sqs::error::ProvideErrorMetadata;
use aws_sdk_sqs::types::{Message as Received, MessageSystemAttributeName, QueueAttributeName};
use penstock_policy::time::Timestamp;
use penstock_service::ports::{Delivery, Letters, Message, PortError, PortResult, Queue, QueueId, Receipt};
use penstock_service::stored::message;

use crate::Aws;
use crate::error::{SQS, classify};
use crate::table::Repeats;

/// The longest delay SQS knows.
const MOST_DELAY: Duration = Duration::from_secs(15 * 60);
/// The longest wait of a receive.
const MOST_WAIT: Duration = Duration::from_secs(20);
/// The longest time a message can stay hidden.
const MOST_HIDDEN: Duration = Duration::from_secs(12 * 3600);
/// The end of the name of a queue of dead letters.
const DEAD: &str = "-dlq";
/// The longest name of a queue.
const NAME_CHARS: usize = 80;

#[async_trait]
impl Queue for Aws {
    async fn send(&self, queue: &QueueId, message: &Message, delay: Duration, _now: Timestamp) -> PortResult<()> {
        self.send_message(queue, message, delay, Repeats::BySdk).await
    }

    async fn receive(
        &self,
        queue: &QueueId,
        max: usize,
        visibility: Duration,
        wait: Duration,
    ) -> PortResult<Vec<Delivery>> {
        self.receive_letters(queue, Letters::Live, max, visibility, wait).await
    }

    async fn dead_letters(&self, queue: &QueueId, max: usize, visibility: Duration) -> PortResult<Vec<Delivery>> {
        self.receive_letters(queue, Letters::Dead, max, visibility, Duration::ZERO).await
    }

    async fn ack(&self, receipt: &Receipt) -> PortResult<()> {
        let url = self.letters_url(&receipt.queue, receipt.letters).await?;
        match self.sqs.delete_message().queue_url(&url).receipt_handle(&receipt.handle).send().await {
            Ok(_) => Ok(()),
            Err(error) if has_run_out(error.code()) => Ok(()),
            Err(error) => Err(self.forgetting(&receipt.queue, classify(SQS, &error))),
        }
    }

    async fn hide(&self, receipt: &Receipt, visibility: Duration) -> PortResult<()> {
        let url = self.letters_url(&receipt.queue, receipt.letters).await?;
        let sent = self
            .sqs
            .change_message_visibility()
            .queue_url(&url)
            .receipt_handle(&receipt.handle)
            .visibility_timeout(seconds(visibility, MOST_HIDDEN))
            .send()
            .await;
        match sent {
            Ok(_) => Ok(()),
            Err(error) if has_run_out(error.code()) => Ok(()),
            Err(error) => Err(self.forgetting(&receipt.queue, classify(SQS, &error))),
        }
    }

    async fn depth(&self, queue: &QueueId) -> PortResult<u64> {
        const COUNTS: [QueueAttributeName; 3] = [
            QueueAttributeName::ApproximateNumberOfMessages,
            QueueAttributeName::ApproximateNumberOfMessagesNotVisible,
            QueueAttributeName::ApproximateNumberOfMessagesDelayed,
        ];
        let url = self.queue_url(queue).await?;
        let output = self
            .sqs
            .get_queue_attributes()
            .queue_url(&url)
            .set_attribute_names(Some(COUNTS.to_vec()))
            .send()
            .await
            .map_err(|error| self.forgetting(queue, classify(SQS, &error)))?;
        let attributes = output.attributes.unwrap_or_default();
        Ok(COUNTS.iter().filter_map(|name| attributes.get(name)?.parse::<u64>().ok()).sum())
    }
}

impl Aws {
    async fn receive_letters(
        &self,
        queue: &QueueId,
        letters: Letters,
        max: usize,
        visibility: Duration,
        wait: Duration,
    ) -> PortResult<Vec<Delivery>> {
        let url = self.letters_url(queue, letters).await?;
        let wait_secs = seconds(wait, MOST_WAIT);
        // A long poll is meant to be silent for its whole wait.
        let patience = self.timeouts.queue + Duration::from_secs(u64::try_from(wait_secs).unwrap_or_default());
        let timeouts =
            TimeoutConfig::builder().connect_timeout(self.timeouts.queue).operation_attempt_timeout(patience).build();
        let output = self
            .sqs
            .receive_message()
            .queue_url(&url)
            .max_number_of_messages(i32::try_from(max.clamp(1, 10)).unwrap_or(10))
            .visibility_timeout(seconds(visibility, MOST_HIDDEN))
            .wait_time_seconds(wait_secs)
            .message_system_attribute_names(MessageSystemAttributeName::SentTimestamp)
            .message_system_attribute_names(MessageSystemAttributeName::ApproximateReceiveCount)
            .customize()
            .config_override(aws_sdk_sqs::config::Builder::new().timeout_config(timeouts))
            .send()
            .await
            .map_err(|error| self.forgetting(queue, classify(SQS, &error)))?;
        Ok(output
            .messages
            .unwrap_or_default()
            .iter()
            .filter_map(|received| delivery(queue, letters, received))
            .collect())
    }

    /// Sends a message; with [`Repeats::Never`], in a single try, so that its outcome is known or known to be unknown.
    pub(crate) async fn send_message(
        &self,
        queue: &QueueId,
        message: &Message,
        delay: Duration,
        repeats: Repeats,
    ) -> PortResult<()> {
        let url = self.queue_url(queue).await?;
        let mut config = aws_sdk_sqs::config::Builder::new();
        if repeats == Repeats::Never {
            config.set_retry_config(Some(RetryConfig::disabled()));
        }
        self.sqs
            .send_message()
            .queue_url(&url)
            .message_body(sendable(message::encode(message)))
            .message_group_id(group(message))
            .set_delay_seconds(Some(seconds(delay, MOST_DELAY)).filter(|seconds| *seconds > 0))
            .customize()
            .config_override(config)
            .send()
            .await
            .map_err(|error| self.forgetting(queue, classify(SQS, &error)))?;
        Ok(())
    }

    /// The queue's URL; asked for once.
    pub(crate) async fn queue_url(&self, queue: &QueueId) -> PortResult<String> {
        self.letters_url(queue, Letters::Live).await
    }

    async fn letters_url(&self, queue: &QueueId, letters: Letters) -> PortResult<String> {
        let key = (queue.clone(), letters);
        if let Some(url) = self.queue_urls.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(url.clone());
        }
        let name = self.queue_name(queue)?;
        let name = match letters {
            Letters::Live => name,
            Letters::Dead => format!("{name}{DEAD}"),
        };
        let output = self.sqs.get_queue_url().queue_name(name).send().await.map_err(|error| classify(SQS, &error))?;
        let url = output.queue_url.unwrap_or_default();
        self.queue_urls.lock().unwrap_or_else(PoisonError::into_inner).insert(key, url.clone());
        Ok(url)
    }

    /// The queue's name, if SQS can have it.
    pub(crate) fn queue_name(&self, queue: &QueueId) -> PortResult<String> {
        let name = format!("{}-{}-{}", self.names.queue_prefix, queue.pool, queue.class.name());
        let sayable = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
        if sayable && name.len() + DEAD.len() <= NAME_CHARS {
            return Ok(name);
        }
        let cause = "a queue's name has at most 76 characters of a-z, A-Z, 0-9, '-' and '_': rename the pool";
        Err(PortError::Refused { store: SQS, cause: cause.to_owned() })
    }

    /// Forgets a queue's URL if the queue refuses for good: it may have been made anew elsewhere.
    fn forgetting(&self, queue: &QueueId, error: PortError) -> PortError {
        if !error.is_passing() {
            self.queue_urls.lock().unwrap_or_else(PoisonError::into_inner).retain(|(known, _), _| known != queue);
        }
        error
    }
}

fn delivery(queue: &QueueId, letters: Letters, received: &Received) -> Option<Delivery> {
    let attribute = |name| received.attributes().and_then(|attributes| attributes.get(&name)).map(String::as_str);
    let sent = attribute(MessageSystemAttributeName::SentTimestamp).and_then(|ms| ms.parse().ok()).unwrap_or_default();
    let receives = attribute(MessageSystemAttributeName::ApproximateReceiveCount).and_then(|n| n.parse().ok());
    Some(Delivery {
        message: message::decode(received.body().unwrap_or_default()),
        // Without a handle it can neither be answered for nor removed; it comes back by itself.
        receipt: Receipt { queue: queue.clone(), letters, handle: received.receipt_handle()?.to_owned() },
        sent: Timestamp::from_millis(sent),
        receives: receives.unwrap_or(1),
    })
}

/// Whether the code says that the receipt or its message is gone.
fn has_run_out(code: Option<&str>) -> bool {
    let code = code.map_or("", |code| code.rsplit('.').next().unwrap_or(code));
    matches!(
        code,
        "ReceiptHandleIsInvalid"
            | "MessageNotInflight"
            | "InvalidIdFormat"
            | "InvalidParameterValue"
            | "InvalidParameterValueException"
    )
}

/// The tenant as a message group. A group id holds the same characters as a tenant's id.
fn group(message: &Message) -> &str {
    message.spec.tenant.as_str()
}

/// SQS refuses U+FFFE and U+FFFF anywhere in a body. Inside a body they can only stand in JSON strings, where an escape
/// means the same.
fn sendable(body: String) -> String {
    if body.contains(['\u{fffe}', '\u{ffff}']) {
        body.replace('\u{fffe}', "\\ufffe").replace('\u{ffff}', "\\uffff")
    } else {
        body
    }
}

/// Whole seconds, rounded up: nothing becomes visible, and no wait ends, before it should.
fn seconds(duration: Duration, most: Duration) -> i32 {
    let duration = duration.min(most);
    let whole = duration.as_secs() + u64::from(duration.subsec_nanos() > 0);
    i32::try_from(whole).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_become_whole_seconds_and_never_too_short() {
        let most = Duration::from_secs(20);
        assert_eq!(seconds(Duration::ZERO, most), 0);
        assert_eq!(seconds(Duration::from_millis(1), most), 1);
        assert_eq!(seconds(Duration::from_millis(2001), most), 3);
        assert_eq!(seconds(Duration::from_secs(60), most), 20);
    }

    #[test]
    fn a_character_sqs_refuses_travels_as_an_escape() {
        let body = sendable("{\"req\":\"a\u{ffff}b\u{fffe}\"}".to_owned());
        assert!(body.is_ascii());
        let read: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(read["req"], "a\u{ffff}b\u{fffe}");
    }
}
