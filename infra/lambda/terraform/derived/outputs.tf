output "environment" {
  description = "The function's variables"
  value       = local.environment

  precondition {
    # In bytes: three for each four characters of base64.
    condition     = length(base64encode(join("", flatten([for name, text in local.environment : [name, text]])))) / 4 * 3 <= 4096
    error_message = "The environment is larger than the 4 KB that Lambda takes. Put the models into a config.json in the bucket, and its URL into model_config_file."
  }

  precondition {
    condition     = !(var.snap_start && var.provisioned_concurrent_executions > 0)
    error_message = "snap_start excludes provisioned_concurrent_executions; want one of them."
  }

  precondition {
    condition     = !var.snap_start || var.ephemeral_storage_size == 512
    error_message = "snap_start takes no more than 512 MB of /tmp; want an ephemeral_storage_size of 512."
  }

  precondition {
    condition     = var.reserved_concurrent_executions < 0 || var.provisioned_concurrent_executions <= var.reserved_concurrent_executions
    error_message = "provisioned_concurrent_executions is more than reserved_concurrent_executions."
  }

  precondition {
    condition     = var.http_api != "JWT" || (startswith(var.jwt_issuer, "https://") && length(var.jwt_audience) > 0)
    error_message = "http_api is JWT; want a jwt_issuer, as an https URL, and a jwt_audience."
  }
}

output "policy" {
  description = "What the function's role may do, as JSON"
  value       = jsonencode({ Version = "2012-10-17", Statement = local.statements })
}

output "assume_role_policy" {
  description = "Who may take the role, as JSON"
  value = jsonencode({
    Version   = "2012-10-17"
    Statement = [{ Effect = "Allow", Action = "sts:AssumeRole", Principal = { Service = "lambda.amazonaws.com" } }]
  })
}

output "alarms" {
  description = "Alarms by name, with the metrics that their expressions use"
  value = {
    for name, alarm in local.alarms : name => {
      description = alarm.description
      label       = alarm.label
      expression  = alarm.expression
      threshold   = alarm.threshold
      periods     = try(alarm.periods, 1)
      datapoints  = try(alarm.datapoints, 1)
      metrics     = { for metric in alarm.uses : metric => local.metrics[metric] }
    } if try(alarm.wanted, true)
  }
}
