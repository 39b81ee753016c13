resource "aws_ecr_repository" "this" {
  #checkov:skip=CKV_AWS_136:encrypted by ECR; ecr_kms_key_arn is for a key of one's own
  count = var.create_ecr_repository ? 1 : 0

  name                 = var.function_name
  image_tag_mutability = "IMMUTABLE"
  tags                 = var.tags

  image_scanning_configuration {
    scan_on_push = true
  }

  encryption_configuration {
    encryption_type = var.ecr_kms_key_arn == null ? "AES256" : "KMS"
    kms_key         = var.ecr_kms_key_arn
  }
}

resource "aws_ecr_lifecycle_policy" "this" {
  count = var.create_ecr_repository ? 1 : 0

  repository = aws_ecr_repository.this[0].name
  policy = jsonencode({
    rules = [{
      rulePriority = 1
      description  = "the newest images, for going back to"
      selection    = { tagStatus = "any", countType = "imageCountMoreThan", countNumber = var.ecr_kept_images }
      action       = { type = "expire" }
    }]
  })
}
