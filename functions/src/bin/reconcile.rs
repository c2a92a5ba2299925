//! The Lambda function `reconcile`: finds what was left lying and finishes it, called by a schedule.

#[tokio::main]
async fn main() -> Result<(), lambda_http::Error> {
    penstock_functions::reconcile().await
}
