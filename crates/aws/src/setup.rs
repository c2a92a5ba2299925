//! Makes the tables, queues and the bucket, for emulators, tests and `penstock pool add`. A deployment's own come from its
//! template, with the same keys and times.

use std::time::Duration;

use aws_sdk_dynamodb::error::BuildError;
use aws_sdk_dynamodb::operation::create_table::CreateTableError;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, GlobalSecondaryIndex, KeySchemaElement, KeyType, Projection, ProjectionType,
    ScalarAttributeType, TableStatus, TimeToLiveSpecification,
};
use aws_sdk_s3::operation::create_bucket::CreateBucketError;
use aws_sdk_s3::types::{BucketLocationConstraint, CreateBucketConfiguration};
use aws_sdk_sqs::types::QueueAttributeName;
use penstock_policy::classes::Class;
use penstock_policy::id::PoolId;
use penstock_service::ports::{PortError, PortResult, QueueId};

use crate::Aws;
use crate::error::{DYNAMODB, S3, SQS, classify};
use crate::jobs::guard::INDEXED;
use crate::parking::INDEX;

/// How long a received message is hidden unless the receiver says otherwise; longer than a lease.
const VISIBILITY: Duration = Duration::from_secs(60);
/// After how many receives a message is taken for one that kills its workers. Reclaims of spot machines count too.
const MOST_RECEIVES: u32 = 20;
/// How long dead letters wait for a person.
const DEAD_LETTERS_KEPT: Duration = Duration::from_secs(14 * 24 * 3600);
/// How often, at most, a new table is looked at until it is there.
const LOOKS: u32 = 120;

impl Aws {
    /// Makes whatever is missing of the tables, the bucket and the queues of `pools`.
    ///
    /// # Errors
    /// The first refusal or failure; what was made stays, and the next call goes on from there.
    pub async fn create_everything(&self, pools: &[PoolId]) -> PortResult<()> {
        let names = &self.names;
        let tables = [
            (&names.adm_table, false),
            (&names.job_table, true),
            (&names.cache_table, false),
            (&names.ctl_table, true),
        ];
        for (table, sorted) in tables {
            self.create_table(table, sorted, *table == names.job_table).await?;
        }
        self.create_bucket().await?;
        for pool in pools {
            self.create_queues(pool).await?;
        }
        Ok(())
    }

    /// Makes a pool's queues and their dead-letter queues. Queues that exist with the same attributes stay as they are.
    ///
    /// # Errors
    /// Refused if SQS cannot have such a name, or has the queue with other attributes.
    pub async fn create_queues(&self, pool: &PoolId) -> PortResult<()> {
        for class in Class::ALL {
            let name = self.queue_name(&QueueId { pool: pool.clone(), class })?;
            let kept = [(QueueAttributeName::MessageRetentionPeriod, DEAD_LETTERS_KEPT.as_secs().to_string())];
            let dead = self.create_queue(&format!("{name}-dlq"), kept.into()).await?;
            let redrive = format!(r#"{{"deadLetterTargetArn":"{dead}","maxReceiveCount":"{MOST_RECEIVES}"}}"#);
            let attributes = [
                (QueueAttributeName::MessageRetentionPeriod, retention(class).as_secs().to_string()),
                (QueueAttributeName::VisibilityTimeout, VISIBILITY.as_secs().to_string()),
                (QueueAttributeName::RedrivePolicy, redrive),
            ];
            self.create_queue(&name, attributes.into()).await?;
        }
        Ok(())
    }

    /// Makes a queue and gives its ARN.
    async fn create_queue(
        &self,
        name: &str,
        attributes: std::collections::HashMap<QueueAttributeName, String>,
    ) -> PortResult<String> {
        let made = self
            .sqs
            .create_queue()
            .queue_name(name)
            .set_attributes(Some(attributes))
            .send()
            .await
            .map_err(|error| classify(SQS, &error))?;
        let about = self
            .sqs
            .get_queue_attributes()
            .queue_url(made.queue_url.unwrap_or_default())
            .attribute_names(QueueAttributeName::QueueArn)
            .send()
            .await
            .map_err(|error| classify(SQS, &error))?;
        let arn = about.attributes.unwrap_or_default().remove(&QueueAttributeName::QueueArn);
        arn.ok_or_else(|| PortError::Unavailable { store: SQS, cause: "a new queue has no name yet".to_owned() })
    }

    async fn create_table(&self, table: &str, sorted: bool, indexed: bool) -> PortResult<()> {
        let build = |error| PortError::Refused { store: DYNAMODB, cause: format!("table definition: {error}") };
        let keys: &[(&str, KeyType)] =
            if sorted { &[("pk", KeyType::Hash), ("sk", KeyType::Range)] } else { &[("pk", KeyType::Hash)] };
        let mut request = self.dynamo.create_table().table_name(table).billing_mode(BillingMode::PayPerRequest);
        for (name, role) in keys {
            let schema = KeySchemaElement::builder().attribute_name(*name).key_type(role.clone()).build();
            let text =
                AttributeDefinition::builder().attribute_name(*name).attribute_type(ScalarAttributeType::S).build();
            request = request
                .key_schema(schema.map_err(|error| build(error.to_string()))?)
                .attribute_definitions(text.map_err(|error| build(error.to_string()))?);
        }
        if indexed {
            let (index, definitions) = job_index().map_err(|error| build(error.to_string()))?;
            request = request.global_secondary_indexes(index);
            for definition in definitions {
                request = request.attribute_definitions(definition);
            }
        }
        match request.send().await {
            Ok(_) => {}
            Err(error) => match error.as_service_error() {
                // It is there already.
                Some(CreateTableError::ResourceInUseException(_)) => return Ok(()),
                _ => return Err(classify(DYNAMODB, &error)),
            },
        }
        self.await_table(table).await?;
        let expiry = TimeToLiveSpecification::builder().attribute_name("ttl").enabled(true).build();
        self.dynamo
            .update_time_to_live()
            .table_name(table)
            .time_to_live_specification(expiry.map_err(|error| build(error.to_string()))?)
            .send()
            .await
            .map_err(|error| classify(DYNAMODB, &error))?;
        Ok(())
    }

    async fn await_table(&self, table: &str) -> PortResult<()> {
        for _ in 0..LOOKS {
            let found = self
                .dynamo
                .describe_table()
                .table_name(table)
                .send()
                .await
                .map_err(|error| classify(DYNAMODB, &error))?;
            if found.table.and_then(|table| table.table_status) == Some(TableStatus::Active) {
                return Ok(());
            }
            self.pause(Duration::from_millis(500)).await;
        }
        Err(PortError::Unavailable { store: DYNAMODB, cause: "a new table does not become active".to_owned() })
    }

    async fn create_bucket(&self) -> PortResult<()> {
        let region = self.s3.config().region().map(|region| region.as_ref().to_owned());
        // us-east-1 is the one region that must not be named.
        let place = region.filter(|region| region != "us-east-1").map(|region| {
            CreateBucketConfiguration::builder()
                .location_constraint(BucketLocationConstraint::from(region.as_str()))
                .build()
        });
        let sent = self
            .s3
            .create_bucket()
            .bucket(&self.names.payload_bucket)
            .set_create_bucket_configuration(place)
            .send()
            .await;
        match sent {
            Ok(_) => Ok(()),
            Err(error) => match error.as_service_error() {
                Some(CreateBucketError::BucketAlreadyOwnedByYou(_)) => Ok(()),
                _ => Err(classify(S3, &error)),
            },
        }
    }
}

/// The index of jobs that are not over: sparse, since only they have its keys.
fn job_index() -> Result<(GlobalSecondaryIndex, Vec<AttributeDefinition>), BuildError> {
    let [partition, place, tokens] = INDEXED;
    let mut index = GlobalSecondaryIndex::builder().index_name(INDEX);
    let mut definitions = Vec::new();
    for (name, role) in [(partition, KeyType::Hash), (place, KeyType::Range)] {
        index = index.key_schema(KeySchemaElement::builder().attribute_name(name).key_type(role).build()?);
        let definition = AttributeDefinition::builder().attribute_name(name).attribute_type(ScalarAttributeType::S);
        definitions.push(definition.build()?);
    }
    let projection = Projection::builder().projection_type(ProjectionType::Include).non_key_attributes(tokens).build();
    Ok((index.projection(projection).build()?, definitions))
}

/// How long a queue keeps a message: well beyond the class's patience, so that no message vanishes before its job is due.
fn retention(class: Class) -> Duration {
    match class {
        Class::P0 => Duration::from_secs(30 * 60),
        Class::P1 => Duration::from_secs(3600),
        Class::P2 => Duration::from_secs(12 * 3600),
        Class::P3 => Duration::from_secs(4 * 24 * 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_outlives_its_jobs_due_moment_and_a_record_outlives_both() {
        for class in Class::ALL {
            assert!(retention(class) > class.patience(), "{}", class.name());
            assert!(crate::jobs::KEPT > retention(class), "{}", class.name());
        }
    }
}
