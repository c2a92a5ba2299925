//! The Lambda function `control`: the control tick, called by a schedule.

#[tokio::main]
async fn main() -> Result<(), lambda_http::Error> {
    penstock_functions::tick().await
}
