output "lambda_function_name" {
  description = "The function's name"
  value       = aws_lambda_function.this.function_name
}

output "lambda_function_url" {
  description = "The function's own URL"
  value       = one(aws_lambda_function_url.this[*].function_url)
}

output "lambda_alias_arn" {
  description = "What callers need lambda:InvokeFunctionUrl and lambda:InvokeFunction on"
  value       = aws_lambda_alias.live.arn
}

output "lambda_role_arn" {
  description = "Who reads the models, for the policies of a bucket or a key in another account"
  value       = aws_iam_role.this.arn
}

output "lambda_cloudwatch_log_group_name" {
  description = "Where the logs are"
  value       = aws_cloudwatch_log_group.this.name
}

output "http_api_url" {
  description = "The HTTP API's"
  value       = one(aws_apigatewayv2_api.this[*].api_endpoint)
}

output "ecr_repository_url" {
  description = "Where the image is pushed to, if a registry was made"
  value       = one(aws_ecr_repository.this[*].repository_url)
}
