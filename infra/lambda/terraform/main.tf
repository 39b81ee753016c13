# Decant on AWS Lambda: one container-image function with a URL of its own. docs/deploy/lambda.md has the steps.

data "aws_partition" "current" {}

module "derived" {
  source = "./derived"

  function_name                     = var.function_name
  partition                         = data.aws_partition.current.partition
  image_uri                         = var.image_uri
  models                            = var.models
  model_config_file                 = var.model_config_file
  model_kms_key_arn                 = var.model_kms_key_arn
  environment_variables             = var.environment_variables
  architectures                     = var.architectures
  memory_size                       = var.memory_size
  ephemeral_storage_size            = var.ephemeral_storage_size
  timeout                           = var.timeout
  reserved_concurrent_executions    = var.reserved_concurrent_executions
  provisioned_concurrent_executions = var.provisioned_concurrent_executions
  snap_start                        = var.snap_start
  authorization_type                = var.authorization_type
  http_api                          = var.http_api
  jwt_issuer                        = var.jwt_issuer
  jwt_audience                      = var.jwt_audience
  tracing_mode                      = var.tracing_mode
  log_group_arn                     = aws_cloudwatch_log_group.this.arn
}

resource "aws_cloudwatch_log_group" "this" {
  #checkov:skip=CKV_AWS_338:predictions are not kept for a year unless cloudwatch_logs_retention_in_days says so
  #checkov:skip=CKV_AWS_158:encrypted by CloudWatch; cloudwatch_logs_kms_key_id is for a key of one's own
  name              = "/aws/lambda/${var.function_name}"
  retention_in_days = var.cloudwatch_logs_retention_in_days
  kms_key_id        = var.cloudwatch_logs_kms_key_id
  tags              = var.tags
}

resource "aws_iam_role" "this" {
  name                 = var.function_name
  assume_role_policy   = module.derived.assume_role_policy
  permissions_boundary = var.role_permissions_boundary
  tags                 = var.tags
}

# The models, the function's own logs, and nothing beside them.
resource "aws_iam_role_policy" "this" {
  name   = "decant"
  role   = aws_iam_role.this.name
  policy = module.derived.policy
}

resource "aws_lambda_function" "this" {
  #checkov:skip=CKV_AWS_115:reserved_concurrent_executions is for that; a new account has none to reserve
  #checkov:skip=CKV_AWS_116:requests are answered or fail at once; no queue of failed events is kept
  #checkov:skip=CKV_AWS_117:needs nothing inside a VPC, and a function in one needs a way out to S3
  #checkov:skip=CKV_AWS_173:no secrets in the environment; Lambda encrypts it with its own key
  #checkov:skip=CKV_AWS_272:images cannot be signed by Lambda's code signing; the image is given by its digest
  function_name = var.function_name
  description   = "OpenVINO models over the TensorFlow Serving REST API"
  role          = aws_iam_role.this.arn
  package_type  = "Image"
  image_uri     = var.image_uri
  architectures = var.architectures
  memory_size   = var.memory_size
  timeout       = var.timeout
  # Whatever changes is a new version, which the alias then points to.
  publish                        = true
  reserved_concurrent_executions = var.reserved_concurrent_executions
  tags                           = var.tags

  ephemeral_storage {
    size = var.ephemeral_storage_size
  }

  environment {
    variables = module.derived.environment
  }

  logging_config {
    log_format = "Text"
    log_group  = aws_cloudwatch_log_group.this.name
  }

  tracing_config {
    mode = var.tracing_mode
  }

  dynamic "snap_start" {
    for_each = var.snap_start ? ["PublishedVersions"] : []

    content {
      apply_on = snap_start.value
    }
  }

  # SnapStart loads the models when the version is published.
  depends_on = [aws_iam_role_policy.this]
}

# What clients call.
resource "aws_lambda_alias" "live" {
  name             = "live"
  function_name    = aws_lambda_function.this.function_name
  function_version = aws_lambda_function.this.version
}

resource "aws_lambda_provisioned_concurrency_config" "this" {
  count = var.provisioned_concurrent_executions > 0 ? 1 : 0

  function_name                     = aws_lambda_function.this.function_name
  qualifier                         = aws_lambda_alias.live.name
  provisioned_concurrent_executions = var.provisioned_concurrent_executions
}

resource "aws_lambda_function_url" "this" {
  #checkov:skip=CKV_AWS_258:signed requests only unless authorization_type says otherwise
  count = var.create_lambda_function_url ? 1 : 0

  function_name      = aws_lambda_function.this.function_name
  qualifier          = aws_lambda_alias.live.name
  authorization_type = var.authorization_type
  invoke_mode        = "BUFFERED"
}

# A URL for anybody needs both of these.
resource "aws_lambda_permission" "public_url" {
  #checkov:skip=CKV_AWS_301:only where authorization_type says that anybody may call
  count = local.is_public ? 1 : 0

  action                 = "lambda:InvokeFunctionUrl"
  function_name          = aws_lambda_function.this.function_name
  qualifier              = aws_lambda_alias.live.name
  principal              = "*"
  function_url_auth_type = "NONE"
}

resource "aws_lambda_permission" "public_invoke" {
  #checkov:skip=CKV_AWS_301:only where authorization_type says that anybody may call
  count = local.is_public ? 1 : 0

  action                   = "lambda:InvokeFunction"
  function_name            = aws_lambda_function.this.function_name
  qualifier                = aws_lambda_alias.live.name
  principal                = "*"
  invoked_via_function_url = true
}

locals {
  is_public = var.create_lambda_function_url && var.authorization_type == "NONE"
}
