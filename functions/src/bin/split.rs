//! The Lambda function `split`: parks the lines of batches and collects their answers, called by a schedule.

#[tokio::main]
async fn main() -> Result<(), lambda_http::Error> {
    penstock_functions::split().await
}
