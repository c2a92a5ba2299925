//! The Lambda function `jobs`: jobs and models.

#[tokio::main]
async fn main() -> Result<(), lambda_http::Error> {
    penstock_functions::serve(penstock_service::jobs_router).await
}
