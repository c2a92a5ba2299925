//! The Lambda function `front`: every inference route.

#[tokio::main]
async fn main() -> Result<(), lambda_http::Error> {
    penstock_functions::serve(penstock_service::front_router).await
}
