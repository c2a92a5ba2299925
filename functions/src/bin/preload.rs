//! The Lambda function `preload`: has the prepared questions answered, called by a schedule and when their list changes.

#[tokio::main]
async fn main() -> Result<(), lambda_http::Error> {
    penstock_functions::prepare().await
}
